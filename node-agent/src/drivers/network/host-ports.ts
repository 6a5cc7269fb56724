import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { AppError } from "@hostler/shared/errors.ts";
import { slicePortSchema, type SlicePort } from "@hostler/shared/tasks.ts";
import * as z from "zod";
import type { PortRange } from "./network-policy.ts";

/** A port of a slice, and the port of its host that leads there. */
const portMappingSchema = slicePortSchema.extend({ hostPort: z.int().min(1).max(65_535) });
export type PortMapping = z.infer<typeof portMappingSchema>;
/** By the short names of the slices. */
export const portLedgerSchema = z.record(z.string(), z.array(portMappingSchema));
export type PortLedger = z.infer<typeof portLedgerSchema>;

/** A port as one word: `tcp/30080`. */
type PortWord = string;
const wordOf = (protocol: SlicePort["protocol"], port: number): PortWord => `${protocol}/${port}`;

/**
 * A port of the host for each that the slice wants: those that it has, and new ones that neither a slice nor a program of the host
 * uses. Where to look first follows from the slice, so that a port that came free is not the next slice's at once, while there
 * are still people who know it as the last one's. Pure. Throws `capacity_unavailable` when the range is used up.
 */
export function choosePorts(wish: {
  readonly name: string;
  readonly wanted: readonly SlicePort[];
  readonly ledger: PortLedger;
  readonly range: PortRange;
  /** What programs of the host listen on. */
  readonly inUse: ReadonlySet<PortWord>;
}): readonly PortMapping[] {
  const { name, wanted, ledger, range, inUse } = wish;
  const taken = new Set(Object.values(ledger).flatMap((held) => held.map((one) => wordOf(one.protocol, one.hostPort))));
  const size = range.last - range.first + 1;
  return wanted.map(({ protocol, port }) => {
    const known = ledger[name]?.find((held) => held.protocol === protocol && held.port === port);
    if (known !== undefined) return known;
    const start = createHash("sha256")
      .update(`${name} ${wordOf(protocol, port)}`)
      .digest()
      .readUInt32BE(0);
    const offset = Array.from({ length: size }, (_, step) => (start + step) % size).find((candidate) => {
      const word = wordOf(protocol, range.first + candidate);
      return !taken.has(word) && !inUse.has(word);
    });
    if (offset === undefined)
      throw new AppError("capacity_unavailable", {
        detail: `All ${protocol} ports from ${range.first} to ${range.last} of this host are in use; see --port-range.`,
      });
    const hostPort = range.first + offset;
    taken.add(wordOf(protocol, hostPort));
    return { protocol, port, hostPort };
  });
}

const TABLES = [
  { protocol: "tcp", path: "/proc/net/tcp" },
  { protocol: "tcp", path: "/proc/net/tcp6" },
  { protocol: "udp", path: "/proc/net/udp" },
  { protocol: "udp", path: "/proc/net/udp6" },
] as const;

/** The ports that programs of this host have open: what comes for them must not go to a slice instead. */
export async function readPortsInUse(): Promise<ReadonlySet<PortWord>> {
  const words = await Promise.all(
    TABLES.map(async ({ protocol, path }) =>
      localPortsIn(await readFile(path, "latin1").catch(() => "")).map((port) => wordOf(protocol, port)),
    ),
  );
  return new Set(words.flat());
}

/** The second column is `ADDRESS:PORT`, in hex. */
function localPortsIn(table: string): number[] {
  return table.split("\n").flatMap((line) => {
    const [, port] = /^\s*\d+: [0-9A-F]+:([0-9A-F]{4}) /.exec(line) ?? [];
    return port === undefined ? [] : [Number.parseInt(port, 16)];
  });
}
