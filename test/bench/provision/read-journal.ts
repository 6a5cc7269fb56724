import { readFile } from "node:fs/promises";
import { join } from "node:path";
import * as z from "zod";

const recordSchema = z.looseObject({
  kind: z.string(),
  at: z.iso.datetime(),
  task: z.string().optional(),
  phase: z.string().optional(),
  durationMs: z.number().optional(),
});

/** When a phase of a slice's way up ended on the host, and how long it took. */
export interface PhaseEnd {
  readonly endedMs: number;
  readonly durationMs: number;
}

/** What the agent's own journal says of a slice's way up, by phase; times on the host's clock, ms since 1970. */
export async function readProvision(agentStateDir: string, allocationId: string): Promise<Map<string, PhaseEnd>> {
  const text = await readFile(join(agentStateDir, "journal", `${allocationId}-1.jsonl`), "utf8").catch(() => "");
  const ends = new Map<string, PhaseEnd>();
  // The last line may be cut: the agent is writing it.
  for (const line of text.split("\n").slice(0, -1)) {
    const { kind, task, phase, at, durationMs } = recordSchema.parse(JSON.parse(line));
    if (kind !== "end" || task !== "provision" || phase === undefined) continue;
    ends.set(phase, { endedMs: Date.parse(at), durationMs: durationMs ?? 0 });
  }
  return ends;
}
