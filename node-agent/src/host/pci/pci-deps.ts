import type { Clock } from "@hostler/shared/clock.ts";
import { type AppError, isAppError } from "@hostler/shared/errors.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { SysfsWriter, WriteResult } from "./guarded-write.ts";
import { deviceFilesOf, findHolders, holderWords } from "./holders.ts";
import { deviceFault, functionFolder, type PciRoots } from "./pci-roots.ts";
import { readDevice, type PciFunction } from "./read-devices.ts";

const OVERRIDE_TIMEOUT_MS = 5000;

/** What it takes to change PCI functions of a host. */
export interface PciDeps {
  readonly roots: PciRoots;
  readonly writer: SysfsWriter;
  readonly commands: HostCommands;
  readonly clock: Clock;
}

/** Rejects with `gpu_unavailable` when the function left the bus. */
export async function requireDevice(deps: Pick<PciDeps, "roots">, address: string): Promise<PciFunction> {
  const device = await readDevice(deps.roots, address);
  if (device === null)
    throw deviceFault(
      address,
      `${address} is not on the PCI bus any more: it fell off or was taken out; see dmesg, and restart the host.`,
    );
  return device;
}

/** Rejects when a process has the function open: its driver would wait for that process, without end and without a way to stop it. */
export async function requireNoHolder(deps: PciDeps, device: PciFunction): Promise<void> {
  const holders = await findHolders(deps.roots, await deviceFilesOf(deps.roots, device));
  if (holders.length > 0)
    throw deviceFault(device.address, `${device.address} is in use: ${holderWords(holders)}. End it first.`, {
      code: "gpu_in_use",
      facts: { holders },
    });
}

/**
 * The driver that the function is kept for, or null. Read by another process: the kernel answers only under the device's lock,
 * and whoever asks while an unbind hangs, hangs too.
 */
export async function readOverride(deps: PciDeps, device: PciFunction, signal: AbortSignal): Promise<string | null> {
  const stuck = (await deps.writer.stuckWrites()).find((write) => write.address === device.address);
  if (stuck !== undefined) throw await hangFault(deps, device, stuck.pid);
  const path = `${functionFolder(deps.roots, device.address)}/driver_override`;
  const result = await deps.commands
    .run(["cat", path], { timeoutMs: OVERRIDE_TIMEOUT_MS, signal })
    .catch(async (error: unknown) => {
      throw isAppError(error, "command_timeout") ? await hangFault(deps, device, null) : error;
    });
  const text = result.stdout.trim();
  if (result.exitCode !== 0)
    throw deviceFault(device.address, `driver_override of ${device.address} cannot be read: ${result.stderr.trim()}`);
  // The kernel shows an override that was cleared as "(null)".
  return text === "" || text === "(null)" ? null : text;
}

/** Writes to one file of the function. A refusal is an answer; a write that hangs rejects, and names who holds the function. */
export async function writeAttribute(
  deps: PciDeps,
  device: PciFunction,
  write: { readonly name: string; readonly text: string; readonly timeoutMs?: number },
): Promise<Exclude<WriteResult, { state: "stuck" }>> {
  const path = `${functionFolder(deps.roots, device.address)}/${write.name}`;
  return await writeFor(deps, device, { path, text: write.text, ...timeoutOf(write) });
}

/** As `writeAttribute`, for a file that is not the function's own. */
export async function writeFor(
  deps: PciDeps,
  device: PciFunction,
  write: { readonly path: string; readonly text: string; readonly timeoutMs?: number },
): Promise<Exclude<WriteResult, { state: "stuck" }>> {
  const result = await deps.writer.write({
    address: device.address,
    path: write.path,
    text: write.text,
    ...timeoutOf(write),
  });
  if (result.state !== "stuck") return result;
  throw await hangFault(deps, device, result.pid);
}

/** `pid` is that of the process that hangs, where it is one of ours. */
async function hangFault(deps: PciDeps, device: PciFunction, pid: number | null): Promise<AppError> {
  const holders = await findHolders(deps.roots, await deviceFilesOf(deps.roots, device));
  const who = holders.length === 0 ? "Nobody has it open." : `${holderWords(holders)}; ending that frees it.`;
  const what = pid === null ? "A change of its driver" : `A write to it (pid ${pid})`;
  return deviceFault(
    device.address,
    `${device.address} is locked. ${what} hangs in the kernel, and nothing more is tried on it. ${who} If it stays, restart the host.`,
    { code: "gpu_locked", facts: { stuckPid: pid, holders } },
  );
}

function timeoutOf(write: { readonly timeoutMs?: number }): { readonly timeoutMs?: number } {
  return write.timeoutMs === undefined ? {} : { timeoutMs: write.timeoutMs };
}
