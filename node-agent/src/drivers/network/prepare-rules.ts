import { createHash } from "node:crypto";
import { AppError } from "@hostler/shared/errors.ts";
import { shortName } from "@hostler/shared/ids.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import * as z from "zod";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { Facts, SliceReference } from "../../ports/slice-driver.ts";
import type { AddressPool, SliceAddresses } from "./addresses.ts";
import { readHostRoutes } from "./host-routes.ts";
import { macOf, tableName, tapName } from "./host-links.ts";
import type { NetworkPolicy } from "./network-policy.ts";
import { rulesOf } from "./network-rules.ts";

export interface RuleDeps {
  readonly commands: HostCommands;
  readonly addresses: AddressPool;
  readonly policy: NetworkPolicy;
}

/** Everything that the rules of a slice's cable say, before any of it is applied. */
export interface PreparedRules {
  /** For `applyRules`. */
  readonly script: string;
  readonly addresses: SliceAddresses;
  /** For the journal and the tenant. */
  readonly facts: Facts;
}

const routeSchema = z.array(z.looseObject({ prefsrc: z.string().optional() }));
/** Nobody's: asking for the way there sends nothing. */
const SOMEWHERE = "192.0.2.1";

export async function prepareRules(deps: RuleDeps, spec: SliceSpec, signal: AbortSignal): Promise<PreparedRules> {
  const name = shortName(spec.allocationId, spec.generation);
  const [addresses, { egress }, ports] = await Promise.all([
    deps.addresses.allocate(spec, signal),
    readHostRoutes(deps.commands, signal),
    preparePorts(deps, spec, signal),
  ]);
  const { host, guest, ipv6 } = addresses;
  const bandwidth = bandwidthOf(deps.policy, spec);
  const script = rulesOf({
    ...{ table: tableName(name), tap: tapName(name), mac: macOf(spec), hostAddress: host, guestAddress: guest },
    ...{ egress, ipv6, mark: markOf(spec), ports: ports.mappings, bandwidthMbitPerSecond: bandwidth },
  });
  const facts = {
    ...{ address: guest, policy: egress.kind === "none" && ipv6 === null ? "deny" : "outbound", ...ports.facts },
    ...(ipv6 === null ? {} : { address6: ipv6.guest }),
    ...(bandwidth === null ? {} : { bandwidthMbitPerSecond: bandwidth }),
  };
  return { script, addresses, facts };
}

/** Holds the host's ports, and says where the world finds them; of a slice without ports nothing is asked and nothing written. */
export async function preparePorts(deps: RuleDeps, spec: SliceSpec, signal: AbortSignal) {
  const { ports: wanted = [] } = spec;
  if (wanted.length === 0) return { mappings: [], facts: {} };
  const [mappings, hostAddress] = await Promise.all([
    deps.addresses.holdPorts(spec, wanted),
    deps.policy.portAddress ?? ownAddress(deps.commands, signal),
  ]);
  return { mappings, facts: { ports: mappings.map((one) => ({ ...one, hostAddress })) } };
}

/** Rejects a slice that asks for ports where the host forwards nothing: another host may. */
export async function requirePorts(commands: HostCommands, spec: SliceSpec, signal: AbortSignal): Promise<void> {
  if (spec.ports === undefined || (await readHostRoutes(commands, signal)).egress.kind !== "none") return;
  throw new AppError("capacity_unavailable", {
    detail:
      "The slice asks for ports, and this host forwards nothing: it has no default route, or net.ipv4.ip_forward is 0.",
  });
}

/** The less of what the slice asks for and what the host gives. */
function bandwidthOf(policy: NetworkPolicy, spec: SliceSpec): number | null {
  const wanted = [policy.bandwidthMbitPerSecond, spec.bandwidthMbitPerSecond ?? null].filter((limit) => limit !== null);
  return wanted.length === 0 ? null : Math.min(...wanted);
}

/** Never 0, which is what a connection has that nobody marked. */
function markOf({ allocationId, generation }: SliceReference): number {
  return createHash("sha256").update(`${allocationId}-${generation}`).digest().readUInt32BE(0) || 1;
}

/** The address that the host's own connections go out from; null where it has none, or no `ip` to tell. */
export async function ownAddress(commands: HostCommands, signal: AbortSignal): Promise<string | null> {
  const argv = ["ip", "-j", "-4", "route", "get", SOMEWHERE] as const;
  const { exitCode, stdout } = await commands.run(argv, { timeoutMs: 10_000, signal });
  return exitCode === 0 ? (routeSchema.parse(JSON.parse(stdout || "[]")).at(0)?.prefsrc ?? null) : null;
}
