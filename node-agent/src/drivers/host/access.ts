import { createHash } from "node:crypto";
import { rm } from "node:fs/promises";
import { exists } from "../../host/exists.ts";
import { findProgram, type FindProgram } from "../../host/find-program.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { HostObject } from "../../ports/slice-driver.ts";
import { ownAddress } from "../network/prepare-rules.ts";
import { closeSliceFolder, openSliceFolder, replaceFile } from "../slices/slice-folder.ts";
import { tenantOf, type HostPlaces } from "./tenant-account.ts";

export interface AccessDeps {
  readonly places: HostPlaces;
  readonly commands: HostCommands;
  /** What the operator said where tenants reach this host; null for the address of its own connections. */
  readonly portAddress: string | null;
  readonly find?: FindProgram;
}

/** There is no seed: keys and script go into the home, whole, before anybody can log in. What is kept is what they were. */
export function makeSeed(deps: Pick<AccessDeps, "places">): HostObject {
  return {
    inspect: async (slice) => ((await exists(tenantOf(deps.places, slice).seedHash)) ? "present" : "absent"),
    create: async (spec, context) => {
      const tenant = tenantOf(deps.places, spec);
      await openSliceFolder(tenant, spec, context);
      const { sshPublicKeys, userData } = spec;
      const sha256 = createHash("sha256").update(JSON.stringify({ sshPublicKeys, userData })).digest("hex");
      await replaceFile(tenant.seedHash, sha256);
      return { sha256 };
    },
    remove: async (slice) => {
      const tenant = tenantOf(deps.places, slice);
      await rm(tenant.seedHash, { force: true });
      await closeSliceFolder(tenant);
    },
  };
}

/**
 * There is no network either: the host's own is the tenant's. What is noted is where it is reached: port 22 of the slice is where the
 * host's sshd listens, and any other port is the host's port of that number.
 */
export function makeNetwork(deps: AccessDeps): HostObject {
  return {
    inspect: async (slice) => ((await exists(tenantOf(deps.places, slice).network)) ? "present" : "absent"),
    create: async (spec, context) => {
      const tenant = tenantOf(deps.places, spec);
      await openSliceFolder(tenant, spec, context);
      const { signal } = context;
      const sshPort = await readSshPort(deps, signal);
      const address = deps.portAddress ?? (await ownAddress(deps.commands, signal));
      const ssh = sshPort === null ? null : { user: tenant.user, address, port: sshPort };
      const ports = (spec.ports ?? []).map(({ protocol, port }) => {
        const hostPort = protocol === "tcp" && port === 22 ? (sshPort ?? port) : port;
        return { protocol, port, hostPort, hostAddress: address };
      });
      await replaceFile(tenant.network, JSON.stringify({ ssh }));
      return { mode: "host", ssh, ...(ports.length === 0 ? {} : { ports }) };
    },
    remove: async (slice) => {
      const tenant = tenantOf(deps.places, slice);
      await rm(tenant.network, { force: true });
      await closeSliceFolder(tenant);
    },
  };
}

/** The port of the host's sshd by its own words; null where there is none, or none that is set up. */
export async function readSshPort(
  { commands, find = findProgram }: Pick<AccessDeps, "commands" | "find">,
  signal: AbortSignal,
): Promise<number | null> {
  if ((await find("sshd")) === null) return null;
  const { exitCode, stdout } = await commands.run(["sshd", "-T"], { timeoutMs: 10_000, signal });
  const [, port] = /^port (\d{1,5})$/m.exec(stdout) ?? [];
  return exitCode !== 0 || port === undefined ? null : Number(port);
}
