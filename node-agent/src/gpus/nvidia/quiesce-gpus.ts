import { isAppError } from "@hostler/shared/errors.ts";
import * as z from "zod";
import type { Facts } from "../../ports/slice-driver.ts";
import type { StateFiles } from "../../ports/state-files.ts";
import type { Passthrough } from "../passthrough/make-passthrough.ts";
import type { DriverGpus } from "./driver-gpus.ts";

export interface QuiesceDeps {
  readonly driver: DriverGpus;
  readonly passthrough: Passthrough;
  readonly files: StateFiles;
}

/** How a GPU was set before a slice got it. Written before it is changed, and kept until it is set back. */
const settingsSchema = z.object({ persistence: z.boolean() });
const pathOf = (uuid: string): string => `gpu-settings/${uuid}.json`;

/**
 * Switches persistence mode off: the daemon behind it keeps the GPU open, and no driver lets go of an open GPU. For these GPUs
 * only; their neighbours keep theirs. Programs are never ended: whoever binds the GPU names those that have it.
 */
export async function quiesceGpus(deps: QuiesceDeps, uuids: readonly string[], signal: AbortSignal): Promise<Facts> {
  const { driver, passthrough, files } = deps;
  const modes = await driver.ask("persistence_mode", signal);
  const wereOn: string[] = [];
  for (const uuid of uuids) {
    // VFIO has it already: an earlier run was broken off after this.
    if ((await passthrough.ownerOf(uuid)) !== null) continue;
    const isOn = modes.get(uuid) === "Enabled";
    if ((await files.read(pathOf(uuid))) === null)
      await files.replace(pathOf(uuid), JSON.stringify({ persistence: isOn }));
    if (!isOn) continue;
    await driver.change(["-i", uuid, "-pm", "0"], signal);
    wereOn.push(uuid);
  }
  return { persistenceSwitchedOff: wereOn };
}

/** All are tried: the second of two was seen to fail. One that VFIO has again is the next slice's, and keeps its note. */
export async function restoreGpus(deps: QuiesceDeps, uuids: readonly string[], signal: AbortSignal): Promise<void> {
  const failures = [];
  for (const uuid of uuids) {
    const text = await deps.files.read(pathOf(uuid));
    if (text === null || (await deps.passthrough.ownerOf(uuid)) !== null) continue;
    try {
      if (settingsSchema.parse(JSON.parse(text)).persistence)
        await deps.driver.change(["-i", uuid, "-pm", "1"], signal);
      await deps.files.remove(pathOf(uuid));
    } catch (error) {
      if (!isAppError(error)) throw error;
      failures.push(error);
    }
  }
  const [first] = failures;
  if (first !== undefined) throw first;
}
