import { oneAtATime } from "@hostler/shared/one-at-a-time.ts";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import * as z from "zod";
import { readBootId } from "../../host/facts.ts";
import type { PciRoots } from "../../host/pci/pci-roots.ts";
import type { StateFiles } from "../../ports/state-files.ts";

/** When each GPU was last reset, in the time of the kernel log: what the kernel said of it before is over. */
export interface GpuResets {
  /** Null when it was not reset in this boot. */
  sinceUs(gpuUuid: string): Promise<number | null>;
  note(gpuUuid: string): Promise<void>;
}

const schema = z.object({ bootId: z.string(), resets: z.record(z.string(), z.number()) });
const PATH = "gpu-resets.json";

export function makeGpuResets(files: StateFiles, roots: PciRoots): GpuResets {
  const inTurn = oneAtATime();
  const read = async (bootId: string): Promise<Readonly<Record<string, number>>> => {
    const parsed = schema.safeParse(parseJson((await files.read(PATH)) ?? "null"));
    // Forgotten resets make the judgment stricter, so a file that cannot be read does no harm.
    return parsed.success && parsed.data.bootId === bootId ? parsed.data.resets : {};
  };
  return {
    sinceUs: async (gpuUuid) => (await read(await readBootId(roots.proc)))[gpuUuid] ?? null,
    note: async (gpuUuid) =>
      await inTurn(async () => {
        const bootId = await readBootId(roots.proc);
        const resets = { ...(await read(bootId)), [gpuUuid]: await uptimeUs(roots) };
        await files.replace(PATH, JSON.stringify({ bootId, resets }));
      }),
  };
}

async function uptimeUs(roots: PciRoots): Promise<number> {
  const [seconds] = (await readFile(join(roots.proc, "uptime"), "utf8")).split(" ");
  return Math.round(Number(seconds) * 1_000_000);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
