import { oneAtATime } from "@hostler/shared/one-at-a-time.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { shortName } from "@hostler/shared/ids.ts";
import type { SlicePort } from "@hostler/shared/tasks.ts";
import * as z from "zod";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { SliceReference } from "../../ports/slice-driver.ts";
import type { StateFiles } from "../../ports/state-files.ts";
import { choosePorts, portLedgerSchema, readPortsInUse, type PortLedger, type PortMapping } from "./host-ports.ts";
import { readHostRoutes, SLICE_RANGE, type HostRoutes } from "./host-routes.ts";
import { ipv6EndsOf, type Ipv6Ends, type Ipv6Prefix } from "./ipv6.ts";
import { DEFAULT_NETWORK_POLICY, type PortRange } from "./network-policy.ts";

/** A slice's own subnet of four addresses: the host's end and the guest's end of its cable. */
export interface SliceSubnet {
  readonly host: string;
  readonly guest: string;
  /** Which of this host's subnets it is; no two slices have the same, so other ranges are cut by it too. */
  readonly index: number;
  readonly prefixLength: 30;
}

export interface SliceAddresses extends SliceSubnet {
  /** The same subnet of the operator's prefix; null where none was given, or the host has no way out by IPv6. */
  readonly ipv6: Ipv6Ends | null;
}

/** Which subnet and which ports of this host each slice has. Asking again gives the same; freeing what is not there is success. */
export interface AddressPool {
  allocate(slice: SliceReference, signal: AbortSignal): Promise<SliceAddresses>;
  /** What the slice has; null when it has nothing. */
  find(slice: SliceReference): Promise<SliceSubnet | null>;
  /** The ports of the host that lead to these of the slice; whatever else it had comes free. */
  holdPorts(slice: SliceReference, wanted: readonly SlicePort[]): Promise<readonly PortMapping[]>;
  portsOf(slice: SliceReference): Promise<readonly PortMapping[]>;
  /** The addresses and the ports. */
  free(slice: SliceReference): Promise<void>;
  /** Everything that is given out, with the short name of the slice that has it. */
  list(): Promise<readonly (SliceSubnet & { readonly owner: string })[]>;
}

const PATH = "addresses.json";
const PORTS_PATH = "ports.json";
/** The range holds this many subnets of four. */
const SUBNETS = 16_384;
const ledgerSchema = z.record(
  z.string(),
  z
    .int()
    .min(0)
    .max(SUBNETS - 1),
);

export function makeAddressPool(deps: {
  readonly files: StateFiles;
  readonly commands: HostCommands;
  readonly portRange?: PortRange;
  readonly ipv6Prefix?: Ipv6Prefix | null;
  /** What programs of the host listen on; for tests. */
  readonly portsInUse?: typeof readPortsInUse;
}): AddressPool {
  const { portRange: range = DEFAULT_NETWORK_POLICY.portRange, portsInUse = readPortsInUse, ipv6Prefix = null } = deps;
  const addressesAt = (index: number, routes: HostRoutes | null): SliceAddresses => {
    const ipv6 = ipv6Prefix !== null && routes?.forwardsIpv6 === true ? ipv6EndsOf(ipv6Prefix, index) : null;
    return { ...addressesOf(index), ipv6 };
  };
  const read = async (): Promise<z.infer<typeof ledgerSchema>> => {
    const text = await deps.files.read(PATH);
    return text === null ? {} : ledgerSchema.parse(JSON.parse(text));
  };
  const readPorts = async (): Promise<PortLedger> => {
    const text = await deps.files.read(PORTS_PATH);
    return text === null ? {} : portLedgerSchema.parse(JSON.parse(text));
  };
  // One change at a time; the agent is alone on its state folder.
  const inTurn = oneAtATime();
  return {
    allocate: async (slice, signal) =>
      await inTurn(async () => {
        const ledger = await read();
        const name = shortName(slice.allocationId, slice.generation);
        const known = ledger[name];
        if (known !== undefined && ipv6Prefix === null) return addressesAt(known, null);
        const routes = await readHostRoutes(deps.commands, signal);
        if (known !== undefined) return addressesAt(known, routes);
        // Another agent, or something that is not ours, may use parts of the range on this host.
        const taken = new Set([...Object.values(ledger), ...routes.taken.flatMap(subnetsOf)]);
        const index = Array.from({ length: SUBNETS }, (_, candidate) => candidate).find(
          (candidate) => !taken.has(candidate),
        );
        if (index === undefined)
          throw new AppError("capacity_unavailable", {
            detail: `All ${SUBNETS} subnets of ${SLICE_RANGE} are in use on this host, by slices or by its own routes (ip route show root ${SLICE_RANGE}).`,
          });
        await deps.files.replace(PATH, JSON.stringify({ ...ledger, [name]: index }));
        return addressesAt(index, routes);
      }),
    find: async (slice) => {
      const known = (await read())[shortName(slice.allocationId, slice.generation)];
      return known === undefined ? null : addressesOf(known);
    },
    holdPorts: async (slice, wanted) =>
      await inTurn(async () => {
        const ledger = await readPorts();
        const name = shortName(slice.allocationId, slice.generation);
        const ports = choosePorts({ name, wanted, ledger, range, inUse: await portsInUse() });
        const changed = JSON.stringify({ ...ledger, [name]: ports });
        if (changed !== JSON.stringify(ledger)) await deps.files.replace(PORTS_PATH, changed);
        return ports;
      }),
    portsOf: async (slice) => (await readPorts())[shortName(slice.allocationId, slice.generation)] ?? [],
    free: async (slice) =>
      await inTurn(async () => {
        const name = shortName(slice.allocationId, slice.generation);
        const { [name]: freed, ...rest } = await read();
        if (freed !== undefined) await deps.files.replace(PATH, JSON.stringify(rest));
        const { [name]: freedPorts, ...others } = await readPorts();
        if (freedPorts !== undefined) await deps.files.replace(PORTS_PATH, JSON.stringify(others));
      }),
    list: async () => Object.entries(await read()).map(([owner, index]) => ({ ...addressesOf(index), owner })),
  };
}

export function addressesOf(index: number): SliceSubnet {
  const end = (offset: number): string => `10.203.${index >> 6}.${((index & 63) << 2) + offset}`;
  return { host: end(1), guest: end(2), index, prefixLength: 30 };
}

/** The subnets of four that a route such as `10.203.0.64/27` covers; a route without a length is one address. */
function subnetsOf(destination: string): number[] {
  const [, third, fourth, length = "32"] = /^10\.203\.(\d+)\.(\d+)(?:\/(\d+))?$/.exec(destination) ?? [];
  if (third === undefined || fourth === undefined) return [];
  const first = Number(third) * 64 + (Number(fourth) >> 2);
  return Array.from({ length: Math.max(1, 2 ** (30 - Number(length))) }, (_, offset) => first + offset);
}
