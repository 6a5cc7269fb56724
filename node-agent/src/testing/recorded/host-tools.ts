import * as z from "zod";

/** What other tools of a host print. No part of the product asks them; these readers are for comparison. */

export interface InfinibandPort {
  readonly device: string;
  readonly port: number;
  readonly isActive: boolean;
  readonly physical: string;
}

/** `ibstat` and `ibstatus`. */
export function parseInfiniband(output: string): InfinibandPort[] {
  const blocks = output.split(/^(?=CA '|Infiniband device ')/m).filter((block) => block.trim() !== "");
  return blocks.map((block) => {
    const [, device = "", inHeading] = /^(?:CA|Infiniband device) '(\S+)'(?: port (\d+) status:)?/.exec(block) ?? [];
    const port = inHeading ?? /^\s*Port (\d+):/m.exec(block)?.[1];
    const state = /^\s*[Ss]tate:\s+(?:\d+: )?(\w+)/m.exec(block)?.[1];
    const physical = /^\s*(?:Physical|phys) state:\s+(?:\d+: )?(\w+)/m.exec(block)?.[1];
    if (device === "" || port === undefined || state === undefined || physical === undefined)
      throw new Error(`a port cannot be read: ${block.slice(0, 200)}`);
    return { device, port: Number(port), isActive: state.toUpperCase() === "ACTIVE", physical };
  });
}

/** `dmidecode`: the system's own fields. */
export function parseDmidecode(output: string): Readonly<Record<string, string>> {
  const system = /^System Information\n((?:\s+.*\n)+)/m.exec(output)?.[1] ?? "";
  return Object.fromEntries(
    [...system.matchAll(/^\s+([^:\n]+): (.*)$/gm)].map(([, key = "", value = ""]) => [key, value]),
  );
}

interface BlockDevice {
  readonly name: string;
  readonly type: string;
  readonly children?: readonly BlockDevice[] | undefined;
}
const blockDeviceSchema: z.ZodType<BlockDevice> = z.lazy(() =>
  z.object({ name: z.string(), type: z.string(), children: z.array(blockDeviceSchema).optional() }),
);

/** `lsblk --json`: how many of each type, children too. */
export function countBlockDevices(output: string): Readonly<Record<string, number>> {
  const counts: Record<string, number> = {};
  const count = (devices: readonly BlockDevice[]): void => {
    for (const { type, children } of devices) {
      counts[type] = (counts[type] ?? 0) + 1;
      count(children ?? []);
    }
  };
  count(z.object({ blockdevices: z.array(blockDeviceSchema) }).parse(JSON.parse(output)).blockdevices);
  return counts;
}

const mountSchema = z.object({ source: z.string(), fstype: z.string(), target: z.string() });

/** `findmnt --json`. */
export function parseMounts(output: string): readonly z.infer<typeof mountSchema>[] {
  return z.object({ filesystems: z.array(mountSchema) }).parse(JSON.parse(output)).filesystems;
}
