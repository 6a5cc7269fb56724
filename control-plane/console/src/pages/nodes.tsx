import { bootstrapTokenCreatedSchema, nodeSchema, type Node } from "@hostler/shared/api/nodes.ts";
import { describeError } from "@hostler/shared/errors.ts";
import { cardSegments } from "@hostler/shared/mig/card-segments.ts";
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { listOf } from "../api.ts";
import type { Signed } from "../signed.ts";
import { Badge } from "../ui/badge.tsx";
import { NodeDetails } from "../ui/node-details.tsx";
import { usePolled } from "../use-polled.ts";

/** The hosts, each with its GPU slots as squares, and the command that adds another. */
export function NodesPage({ signed }: { readonly signed: Signed }): JSX.Element {
  const nodes = usePolled(
    "nodes",
    2000,
    async () => (await signed.api.get("/api/ops/v1/nodes", listOf(nodeSchema))).items,
  );
  return (
    <>
      <div class="title">
        <h1>Hosts</h1>
        <span class="grow" />
        <EnrolButton signed={signed} />
      </div>
      {nodes.error !== null && <p class="error">{nodes.error}</p>}
      {nodes.value?.length === 0 && <p class="empty">No host yet. Press Add a host and run the command on it.</p>}
      {nodes.value?.map((node) => (
        <NodeCard key={node.id} signed={signed} node={node} />
      ))}
    </>
  );
}

function NodeCard({ signed, node }: { readonly signed: Signed; readonly node: Node }): JSX.Element {
  const [isOpen, setIsOpen] = useState(false);
  return (
    <section class="node">
      <div class="title">
        <h2>{node.name}</h2>
        <Badge state={node.state} />
        {!node.online && node.state !== "down" && <Badge state="offline" />}
        {node.gpusSimulated && <span class="simulated">simulated GPUs</span>}
        <span class="grow" />
        <small>{node.id}</small>
        <button type="button" onClick={() => setIsOpen(!isOpen)}>
          {isOpen ? "Hide receipts and tasks" : "Receipts and tasks"}
        </button>
      </div>
      {(node.reason !== null || node.drain !== null) && <p class="hint">{stateLine(node)}</p>}
      <div class="slots">
        {node.slots
          .filter(({ part }) => part === null)
          .map((slot) =>
            isInParts(slot, node.slots) ? (
              <PartsBar key={slot.gpu.uuid} card={slot} slots={node.slots} />
            ) : (
              <span key={slot.gpu.uuid} class={`slot ${slot.state}`} title={titleOf(slot)}>
                {slot.gpu.kind}
              </span>
            ),
          )}
        {node.slots.length === 0 && <span class="hint">no GPUs</span>}
      </div>
      <p class="hint">
        free: {node.free.gpus} GPUs, {node.free.vcpus} vCPUs, {node.free.memoryMib} MiB ·{" "}
        {node.facts === null
          ? "inventory not seen yet"
          : `${node.facts.cpuModel}, ${node.facts.cpus} CPUs, ${node.facts.os}`}
      </p>
      {node.drivers.map((driver) => (
        <p key={driver.name} class="hint">
          {driver.name}: {driver.note}
        </p>
      ))}
      {isOpen && <NodeDetails signed={signed} nodeId={node.id} />}
    </section>
  );
}

type Slot = Node["slots"][number];

function isInParts({ gpu, divided }: Slot, slots: readonly Slot[]): boolean {
  return divided !== null || slots.some(({ part }) => part?.cardUuid === gpu.uuid);
}

/** A card that is handed out in parts: what lies where on it, in its own units, and what could be had of it now. */
function PartsBar({ card, slots }: { readonly card: Slot; readonly slots: readonly Slot[] }): JSX.Element {
  const parts = slots.filter(({ part }) => part?.cardUuid === card.gpu.uuid);
  const shortName = (kind: string): string => kind.slice(card.gpu.kind.length + 1);
  const free = (card.divided?.free ?? [])
    .filter((one) => one.free > 0)
    .map((one) => `${one.free}× ${shortName(one.kind)}`);
  const segments = cardSegments(card.divided?.units ?? 0, parts);
  return (
    <span class={`card ${card.state}`}>
      <small>{card.gpu.kind}</small>
      <span class="units">
        {segments.map(({ start, size, slot }) => (
          <span
            key={start}
            class={`unit ${slot?.state ?? "free"}`}
            style={{ flexGrow: size }}
            title={slot === null ? `${size} free` : titleOf(slot)}
          >
            {slot === null ? "" : shortName(slot.gpu.kind)}
          </span>
        ))}
      </span>
      <small title={titleOf(card)}>
        {card.state === "divided"
          ? `free: ${free.length === 0 ? "nothing" : free.join(" or ")}`
          : (card.reason ?? card.state)}
      </small>
    </span>
  );
}

function titleOf({ gpu, reason, allocationId, state }: Slot): string {
  return `${gpu.model} ${gpu.uuid}\n${reason ?? allocationId ?? state}`;
}

/** Why it is in its state and since when, and how far a drain is. */
function stateLine(node: Node): string {
  const why = `${node.state} since ${node.stateSince}${node.reason === null ? "" : `: ${node.reason}`}`;
  if (node.drain === null) return why;
  const stop = node.drain.stopsAt === null ? "" : `, given back from ${node.drain.stopsAt}`;
  return `${why} · ${node.allocationsLeft} slices left${stop}`;
}

function EnrolButton({ signed }: { readonly signed: Signed }): JSX.Element {
  const [command, setCommand] = useState<string | null>(null);
  const [error, setError] = useState<string | null>(null);
  const onClick = async (): Promise<void> => {
    try {
      setCommand((await signed.api.post("/api/ops/v1/bootstrap-tokens", {}, bootstrapTokenCreatedSchema)).command);
    } catch (failure) {
      setError(describeError(failure));
    }
  };
  return (
    <>
      <button type="button" onClick={() => void onClick()}>
        Add a host
      </button>
      {command !== null && (
        <p class="command">
          Run on the host within 15 minutes; it works once and is not shown again:
          <code>{command}</code>
        </p>
      )}
      {error !== null && <p class="error">{error}</p>}
    </>
  );
}
