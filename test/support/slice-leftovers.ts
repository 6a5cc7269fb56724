import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { ApiClient } from "@hostler/cli/api-client.ts";
import { nodeSchema } from "@hostler/shared/api/nodes.ts";
import { shortName } from "@hostler/shared/ids.ts";
import { leftoversOf } from "../../deploy/demo/leftovers.ts";

/** The agent's books that name slices. */
const BOOKS = ["ledger.json", "addresses.json", "simulated-gpus.json"] as const;

/**
 * What a slice left: on the host, as a program that still runs, in the agent's books, and as a GPU that nobody can have, whoever
 * had it: there must be no other slice. Empty is right.
 */
export async function allLeftovers(
  slice: { readonly allocationId: string; readonly generation: number },
  host: {
    readonly stateDir: string;
    readonly runDir: string;
    readonly operator: ApiClient;
    readonly nodeId: string;
  },
): Promise<string[]> {
  const { allocationId, generation } = slice;
  const name = shortName(allocationId, generation);
  const carries = (text: string): boolean => text.includes(name) || text.includes(allocationId);
  const books = await Promise.all(
    BOOKS.map(async (book) =>
      (await readFile(join(host.stateDir, book), "utf8").catch(() => "")).includes(name) ? [`row in ${book}`] : [],
    ),
  );
  const node = await host.operator.get(`/api/ops/v1/nodes/${host.nodeId}`, nodeSchema);
  const slots = node.slots.filter((slot) => slot.state !== "available");
  return [
    ...(await leftoversOf(allocationId, generation, host)),
    ...(await commandLines()).filter(carries).map((line) => `program ${line}`),
    ...books.flat(),
    ...slots.map((slot) => `slot ${slot.gpu.uuid} ${slot.state}: ${slot.reason ?? "no reason"}`),
  ];
}

/** Of every process: a program that hangs on is a leak, whatever it is. */
async function commandLines(): Promise<string[]> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid);
  return await Promise.all(
    pids.map(async (pid) => {
      const commandLine = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
      return `${pid} ${commandLine.replaceAll("\0", " ").slice(0, 300)}`;
    }),
  );
}
