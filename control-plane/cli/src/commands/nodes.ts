import { bootstrapTokenCreatedSchema, bootstrapTokenSchema, nodeSchema, type Node } from "@hostler/shared/api/nodes.ts";
import { AppError } from "@hostler/shared/errors.ts";
import * as z from "zod";
import { positional, textOf, type Command, type Invocation } from "../command.ts";
import { NODES, nodePath } from "../node-path.ts";
import { parseDurationSeconds, table } from "../output.ts";
import { slotTable } from "../slot-table.ts";
import { nodeActionCommands } from "./node-actions.ts";

const NODE_COLUMNS = ["name", "state", "reason", "gpus free", "vcpus free", "memory free", "last seen", "id"] as const;
const TOKENS = "/api/ops/v1/bootstrap-tokens";

export const nodeCommands: readonly Command[] = [
  {
    words: "nodes token create",
    summary: "Make a bootstrap token and print the command that enrols a host.",
    positionals: [],
    options: {
      ttl: { type: "string", help: "Life, such as 15m or 2h. 15m unless given; at most 1d." },
      "host-name": { type: "string", help: "Only a host of this name may use it." },
      key: { type: "string", help: "Only this key may use it: what hostler-agent key prints on the host." },
    },
    run: async (invocation) => {
      const ttl = textOf(invocation, "ttl") ?? "15m";
      const ttlSeconds = parseDurationSeconds(ttl);
      if (ttlSeconds === null)
        throw new AppError("malformed_request", {
          detail: `--ttl ${ttl} is not a duration. Write 90s, 15m, 2h or 1d.`,
        });
      const client = await invocation.client();
      const created = await client.post(
        TOKENS,
        {
          ttlSeconds,
          hostName: textOf(invocation, "host-name") ?? null,
          keyThumbprint: textOf(invocation, "key") ?? null,
        },
        bootstrapTokenCreatedSchema,
      );
      invocation.print.note(`The token works once, until ${created.expiresAt}. On the host, run:`);
      invocation.print.result(created, (value) => value.command);
      return 0;
    },
  },
  {
    words: "nodes token list",
    summary: "List bootstrap tokens and what became of them.",
    positionals: [],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      const tokens = await client.list(TOKENS, bootstrapTokenSchema);
      invocation.print.result(tokens, (items) =>
        table(
          ["id", "state", "host", "node", "expires"],
          items.map((token) => [token.id, token.state, token.hostName ?? "any", token.nodeId ?? "-", token.expiresAt]),
        ),
      );
      return 0;
    },
  },
  {
    words: "nodes token revoke",
    summary: "Make a bootstrap token useless.",
    positionals: ["id"],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      await client.remove(`${TOKENS}/${encodeURIComponent(positional(invocation, 0))}`);
      invocation.print.result({ revoked: positional(invocation, 0) }, (value) => `Revoked ${value.revoked}.`);
      return 0;
    },
  },
  {
    words: "nodes list",
    summary: "List the hosts with their GPUs and free capacity.",
    positionals: [],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      const nodes = await client.list(NODES, nodeSchema);
      invocation.print.result(nodes, (items) => table(NODE_COLUMNS, items.map(nodeRow)));
      return 0;
    },
  },
  {
    words: "nodes show",
    summary: "Show a host with each of its GPU slots, and what is free of cards that are handed out in parts.",
    positionals: ["node"],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      const node = await client.get(await nodePath(client, positional(invocation, 0)), nodeSchema);
      invocation.print.result(node, (value) => `${table(NODE_COLUMNS, [nodeRow(value)])}\n\n${slotTable(value.slots)}`);
      return 0;
    },
  },
  {
    words: "nodes allow-recovery",
    summary: "Let a host come back by its last key more often than three times.",
    positionals: ["node"],
    options: { more: { type: "string", help: "How often more. 3 unless given." } },
    run: async (invocation) => {
      const more = Number(textOf(invocation, "more") ?? "3");
      return await declare(invocation, "recoveries", { more }, `may come back ${more} times more`);
    },
  },
  {
    words: "nodes expect-restore",
    summary: "Say that a host is restored from a backup, so that it is not taken for a copy of itself.",
    positionals: ["node"],
    options: { ttl: { type: "string", help: "For how long, such as 1h. 1h unless given; at most 7d." } },
    run: async (invocation) => {
      const ttlSeconds = parseDurationSeconds(textOf(invocation, "ttl") ?? "1h");
      if (ttlSeconds === null)
        throw new AppError("malformed_request", { detail: "--ttl is not a duration. Write 30m, 1h or 1d." });
      return await declare(invocation, "restore", { ttlSeconds }, "may start with an older identity once");
    },
  },
  ...nodeActionCommands,
];

async function declare(
  invocation: Invocation,
  what: "recoveries" | "restore",
  body: Readonly<Record<string, number>>,
  consequence: string,
): Promise<number> {
  const client = await invocation.client();
  const node = positional(invocation, 0);
  await client.post(`${await nodePath(client, node)}/${what}`, body, z.unknown());
  invocation.print.result({ node, ...body }, (value) => `${value.node} ${consequence}.`);
  return 0;
}

function nodeRow(node: Node): string[] {
  const kinds = new Map<string, number>();
  for (const { gpu, part } of node.slots) if (part === null) kinds.set(gpu.kind, (kinds.get(gpu.kind) ?? 0) + 1);
  const divided = node.slots.filter(({ state }) => state === "divided").length;
  const inParts = divided === 0 ? "" : `, ${divided} in parts`;
  const gpus = [...kinds].map(([kind, count]) => `${count}×${kind}`).join(" ") + inParts;
  return [
    node.name,
    node.online || node.state === "down" ? node.state : `${node.state}, offline`,
    reasonOf(node),
    `${node.free.gpus}${gpus === "" ? "" : ` of ${gpus}`}${node.gpusSimulated ? " (simulated)" : ""}`,
    String(node.free.vcpus),
    `${node.free.memoryMib} MiB`,
    node.lastSeenAt ?? "never",
    node.id,
  ];
}

/** Why it is in its state, or how far its drain is. */
function reasonOf(node: Node): string {
  if (node.state !== "draining" || node.drain === null) return node.reason ?? "-";
  const left = `${node.allocationsLeft} ${node.allocationsLeft === 1 ? "slice" : "slices"} left since ${node.drain.since}`;
  const stop = node.drain.stopsAt === null ? "" : `, given back from ${node.drain.stopsAt}`;
  return `${node.reason === null ? "" : `${node.reason}; `}${left}${stop}`;
}
