import { readFile } from "node:fs/promises";
import { AppError } from "@hostler/shared/errors.ts";

export type MemoryLock = "raise_limit" | "needs_no_limit" | "forbidden";

const CAP_IPC_LOCK = 14n;
const CAP_SYS_RESOURCE = 24n;

/** How a program that we start may keep all of its memory from being moved, from the kernel's texts about ourselves. Pure. */
export function memoryLockOf(status: string, limits: string): MemoryLock {
  const capabilities = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? "0"}`);
  // oxlint-disable-next-line no-bitwise -- Capabilities are bits.
  const has = (capability: bigint): boolean => ((capabilities >> capability) & 1n) === 1n;
  const isHardLimitOpen = /^Max locked memory\s+\S+\s+unlimited\s/m.test(limits);
  if (isHardLimitOpen || has(CAP_SYS_RESOURCE)) return "raise_limit";
  return has(CAP_IPC_LOCK) ? "needs_no_limit" : "forbidden";
}

/** Put before a program that must lock its memory; it becomes that program, under the same pid. */
export async function memoryLockPrefix(): Promise<readonly string[]> {
  const [status, limits] = await Promise.all(
    ["status", "limits"].map(async (name) => await readFile(`/proc/self/${name}`, "utf8")),
  );
  switch (memoryLockOf(status ?? "", limits ?? "")) {
    case "raise_limit":
      return ["prlimit", "--memlock=unlimited"];
    case "needs_no_limit":
      return [];
    case "forbidden":
      throw new AppError("driver_unavailable", {
        detail:
          "This agent may not let a machine lock its memory, which devices that are passed through need. Run it as root, or with LimitMEMLOCK=infinity.",
      });
  }
}
