import { constants } from "node:fs";
import { access, copyFile, mkdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "@hostler/shared/errors.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import { eraseFolder } from "../slices/erase-folder.ts";
import { syncFolder, translateNoSpace } from "../slices/slice-folder.ts";
import type { SlicePaths } from "../slices/slice-paths.ts";
import { exists } from "../../host/exists.ts";

export type Firmware = "bios" | "uefi";

/** What a machine has unless its labels say otherwise. */
export interface PlatformDefaults {
  readonly firmware: Firmware;
  readonly hasTpm: boolean;
  readonly hasVsock: boolean;
}

export const PLAIN_PLATFORM: PlatformDefaults = { firmware: "bios", hasTpm: false, hasVsock: false };
/** Where Debian's package `ovmf` puts the firmware. */
export const FIRMWARE_FOLDER = "/usr/share/OVMF";
const CODE = "OVMF_CODE_4M.fd";
const VARS = "OVMF_VARS_4M.fd";
const FIRMWARE_LABEL = "hostler.dev/firmware";
const TPM_LABEL = "hostler.dev/tpm";

/** The host's settings as the slice's labels change them. Throws `task_rejected` for a label's value that means nothing. */
export function platformOf({ labels }: Pick<SliceSpec, "labels">, defaults: PlatformDefaults): PlatformDefaults {
  return {
    firmware: chosen(labels, FIRMWARE_LABEL, { bios: "bios", uefi: "uefi" }) ?? defaults.firmware,
    hasTpm: chosen(labels, TPM_LABEL, { off: false, on: true }) ?? defaults.hasTpm,
    hasVsock: defaults.hasVsock,
  };
}

/** Throws `driver_unavailable` where this host has no UEFI firmware. */
export async function checkFirmware(folder: string): Promise<void> {
  for (const name of [CODE, VARS])
    await access(join(folder, name), constants.R_OK).catch((error: unknown) => {
      throw new AppError("driver_unavailable", {
        detail: `${join(folder, name)} cannot be read, so no machine starts with UEFI. Install it with: apt-get install ovmf`,
        cause: error,
      });
    });
}

export function firmwareCode(folder: string): string {
  return join(folder, CODE);
}

/** The slice's own variables, from the package's empty ones. What a machine before this one has written stays. */
export async function makeFirmwareVars(folder: string, paths: SlicePaths): Promise<void> {
  if (await exists(paths.firmwareVars)) return;
  try {
    await mkdir(paths.platform, { recursive: true, mode: 0o700 });
    await copyFile(join(folder, VARS), `${paths.firmwareVars}.new`);
    await rename(`${paths.firmwareVars}.new`, paths.firmwareVars);
    await syncFolder(paths.platform);
  } catch (error) {
    await rm(`${paths.firmwareVars}.new`, { force: true });
    throw translateNoSpace(error, paths.firmwareVars);
  }
}

/** Variables and TPM may hold the tenant's keys. */
export async function removePlatform(commands: HostCommands, paths: SlicePaths, signal: AbortSignal): Promise<void> {
  if (await exists(paths.platform)) await eraseFolder(commands, paths.platform, signal);
}

function chosen<Value>(
  labels: SliceSpec["labels"],
  label: string,
  choices: Readonly<Record<string, Value>>,
): Value | null {
  const text = labels[label];
  if (text === undefined) return null;
  const choice = Object.entries(choices).find(([name]) => name === text);
  if (choice === undefined)
    throw new AppError("task_rejected", {
      detail: `The label ${label} is ${text}; it can be ${Object.keys(choices).join(" or ")}.`,
    });
  return choice[1];
}
