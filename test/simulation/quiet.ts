import type { Sql } from "@hostler/control-plane/db/sql.ts";
import { parseJournal } from "@hostler/node-agent/journal/model.ts";
import { shortName } from "@hostler/shared/ids.ts";
import type { Violation } from "./checker.ts";
import type { Host } from "./host.ts";

/**
 * What holds once faults are over and all work has ended: hosts hold exactly what the database says. This is where reconciliation
 * will be asked for: until then a slice whose host gave up, or was given up on, may leave something behind, in quarantine.
 */

/** What still moves, as lines; empty when the world is quiet. */
export async function readUnsettled(sql: Sql, hosts: readonly Host[]): Promise<string[]> {
  const rows = await sql<{ line: string }[]>`
    select 'allocation ' || id || ' is ' || state as line
    from allocations
    where state not in ('active', 'released', 'failed') and not (state = 'release_failed' and labels::text like '%stuck-undo%')
    union all
    select 'task ' || id || ' of ' || target_id || ' is ' || state from tasks where state in ('ready', 'leased')
    union all
    select 'operation ' || id || ' of ' || target_id || ' is ' || state
    from operations
    where state in ('pending', 'running', 'retrying')
    order by line
  `;
  const undelivered = hosts.flatMap((host) =>
    [...host.disk.texts]
      .filter(([path, text]) => path.startsWith("outbox/") && text.includes('"isDeliverable":true'))
      .map(([path]) => `${host.name} has not delivered ${path}`),
  );
  return [...rows.map((row) => row.line), ...undelivered];
}

interface AllocationOnHost {
  readonly id: string;
  readonly state: string;
  readonly nodeId: string;
  readonly generation: number;
  readonly gpus: readonly { readonly uuid: string }[];
  /** Whether the control plane gave up on its host, or its host said that it could not undo everything. */
  readonly isGivenUp: boolean;
}

/** Compares each host with the database. Resolves with what differs, and how many slices wait for reconciliation. */
export async function compareHosts(
  sql: Sql,
  hosts: readonly Host[],
): Promise<{ readonly violations: Violation[]; readonly leftovers: number }> {
  const allocations = await sql<AllocationOnHost[]>`
    select a.id, a.state, a.node_id as "nodeId", a.generation, a.gpus,
      exists (
        select from task_history t
        where t.target_id = a.id and t.kind = 'slice.vm_provision'
          and (t.outcome is null or jsonb_array_length(coalesce(t.outcome -> 'failure' -> 'leftovers', '[]')) > 0)
      ) as "isGivenUp"
    from allocations a
    order by a.id
  `;
  const slots = await sql<{ gpuUuid: string; state: string; allocationId: string | null }[]>`
    select gpu_uuid as "gpuUuid", state, allocation_id as "allocationId" from gpu_slots
  `;
  const violations: Violation[] = [];
  let leftovers = 0;
  for (const host of hosts) {
    const held = holdingsOf(host);
    for (const allocation of allocations) {
      if (allocation.nodeId !== host.nodeId) continue;
      const name = shortName(allocation.id, allocation.generation);
      const found = held.get(name) ?? [];
      held.delete(name);
      const wanted = allocation.state === "active" ? wantedOf(allocation) : [];
      if (found.toSorted().join() === wanted.toSorted().join()) continue;
      if (allocation.isGivenUp && allocation.state !== "active") {
        leftovers += 1;
        continue;
      }
      const message = `allocation ${allocation.id} is ${allocation.state}; ${host.name} has [${found.join(", ")}], expected [${wanted.join(", ")}]`;
      violations.push({ invariant: "2", message, about: [allocation.id] });
    }
    for (const [name, found] of held)
      violations.push({ invariant: "2", message: `${host.name} has ${found.join(", ")} of ${name}`, about: [name] });
    for (const [uuid, owner] of Object.entries(gpuOwnersOf(host))) {
      const slot = slots.find((row) => row.gpuUuid === uuid);
      const isOwners =
        slot?.allocationId !== null &&
        allocations.some((one) => one.id === slot?.allocationId && shortName(one.id, one.generation) === owner);
      if (isOwners || slot?.state === "quarantined") continue;
      const message = `${uuid} of ${host.name} is bound to ${owner}, its slot is ${slot?.state ?? "unknown"} of ${slot?.allocationId ?? "nobody"}`;
      violations.push({ invariant: "1", message, about: [uuid, slot?.allocationId ?? uuid] });
    }
  }
  return { violations, leftovers };
}

function wantedOf({ gpus }: AllocationOnHost): string[] {
  const objects = ["disk", "seed", "network", "machine"].map((object) => `${object} made`);
  return [...objects, "ledger reserved", "journal sealed", ...gpus.map(({ uuid }) => `gpu ${uuid}`)];
}

/** Everything on the host that belongs to a slice, by the slice's short name. */
function holdingsOf(host: Host): Map<string, string[]> {
  const held = new Map<string, string[]>();
  const add = (name: string, what: string): void => void held.set(name, [...(held.get(name) ?? []), what]);
  for (const [path, text] of host.disk.texts) {
    const [folder, name = "", object] = path.split("/");
    if (folder === "mock") add(name, `${object} ${(JSON.parse(text) as { stage: string }).stage}`);
    const journal = /^(alc_[0-9a-f-]+)-(\d+)\.(jsonl|spec\.json)$/.exec(name);
    if (folder !== "journal" || journal?.[1] === undefined || journal[3] !== "jsonl") continue;
    const isSealed = parseJournal(text).records.some((record) => record.kind === "sealed");
    add(shortName(journal[1], Number(journal[2])), isSealed ? "journal sealed" : "journal open");
  }
  const ledger = JSON.parse(host.disk.texts.get("ledger.json") ?? "{}") as Record<string, { state: string }>;
  for (const [name, row] of Object.entries(ledger)) add(name, `ledger ${row.state}`);
  for (const [uuid, owner] of Object.entries(gpuOwnersOf(host))) add(owner, `gpu ${uuid}`);
  return held;
}

function gpuOwnersOf(host: Host): Record<string, string> {
  const text = host.disk.texts.get("simulated-gpus.json");
  return text === undefined ? {} : (JSON.parse(text) as { owners: Record<string, string> }).owners;
}
