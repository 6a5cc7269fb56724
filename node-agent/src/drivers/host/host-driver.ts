import { access, constants } from "node:fs/promises";
import { AppError } from "@hostler/shared/errors.ts";
import { hostAccessOf, type HostAccess, type SliceSpec } from "@hostler/shared/tasks.ts";
import { findProgram, type FindProgram } from "../../host/find-program.ts";
import { PROGRAM_PACKAGES } from "../../host/host-commands.ts";
import {
  type DriverCapability,
  type Facts,
  isSameSlice,
  type SliceDriver,
  type SliceReference,
} from "../../ports/slice-driver.ts";
import { listSliceFolders } from "../slices/slice-folder.ts";
import { makeNetwork, makeSeed, readSshPort } from "./access.ts";
import { readAccounts } from "./account-files.ts";
import { makeHome } from "./home.ts";
import { readLocalFileSystems } from "./local-files.ts";
import { parseComment, shortNameOf, type HostPlaces } from "./tenant-account.ts";
import { TENANT_ERASURE } from "./tenant-files.ts";
import { makeMachine, type MachineDeps } from "./tenant-machine.ts";

export interface HostDriverDeps extends MachineDeps {
  /** What the operator agreed to give a tenant; null when nothing was agreed. */
  readonly consent: HostAccess | null;
  readonly portAddress: string | null;
  /** The slices that other drivers have on this host. */
  readonly otherSlices: (signal: AbortSignal) => Promise<readonly SliceReference[]>;
  readonly fileSystems?: () => Promise<readonly string[]>;
  readonly find?: FindProgram;
}

const NEEDED = [
  ...["useradd", "usermod", "userdel", "groupadd", "groupdel"],
  ...["runuser", "setpriv", "kill", "find", "ipcrm", "umount", "bash"],
];

/**
 * Bare metal: the host itself for one tenant, who has an account on it. There is nothing between tenant and kernel, so this driver
 * is for hosts that are rented out whole, and each was opened to it by its operator. It never shares: the ledger refuses any other
 * slice beside one of this driver.
 */
export function makeHostDriver(deps: HostDriverDeps): SliceDriver {
  const disk = makeHome({ fileSystems: readLocalFileSystems, ...deps });
  const machine = makeMachine(deps);
  return {
    name: "host",
    gpuAccess: "device_nodes",
    compute: { kind: "none", why: "The slice has all memory and processors of the host." },
    capability: async (signal) => await capabilityOf(deps, signal),
    preflight: async (spec, signal) => await preflight(deps, spec, signal),
    image: { isCached: async () => true, create: async () => ({ source: "the host as it is installed" }) },
    disk,
    diskErasure: TENANT_ERASURE,
    seed: makeSeed(deps),
    network: makeNetwork(deps),
    machine,
    listSlices: async () => await listSlices(deps.places),
    survey: async (slice, signal) => ({
      machine: (await machine.inspect(slice, signal)) === "present" ? "running" : "none",
      hasDisk: (await disk.inspect(slice, signal)) === "present",
    }),
  };
}

async function capabilityOf(deps: HostDriverDeps, signal: AbortSignal): Promise<DriverCapability> {
  const { consent } = deps;
  const refusal = await refusalOf(deps);
  if (refusal !== null || consent === null) return { usable: false, accelerator: "none", note: refusal ?? NO_CONSENT };
  const port = await readSshPort(deps, signal);
  const way = port === null ? "no sshd: web terminal only" : `sshd on port ${port}, and the web terminal`;
  const rights = consent === "root" ? "with root where it is asked for" : "without root";
  return { usable: true, accelerator: "none", access: consent, note: `The whole host ${rights}; ${way}.` };
}

const NO_CONSENT = "Start the agent with --rent-host user or root: a tenant of bare metal runs on this host itself.";

async function refusalOf({ places, consent, find = findProgram }: HostDriverDeps): Promise<string | null> {
  if (process.getuid?.() !== 0) return "Bare metal needs the agent to run as root.";
  const needed = consent === "root" ? [...NEEDED, "sudo"] : NEEDED;
  const found = await Promise.all(needed.map(find));
  const missing = needed.filter((_, index) => found[index] === null);
  if (missing.length > 0) {
    const packages = [...new Set(missing.map((program) => PROGRAM_PACKAGES[program] ?? program))].join(" ");
    return `Missing: ${missing.join(", ")}. Install with: apt-get install ${packages}`;
  }
  for (const folder of [places.etcDir, places.homesDir])
    if (!(await isWritable(folder)))
      return `The agent may not write ${folder}. Its unit is confined: put rent-host.conf into /etc/systemd/system/hostler-agent.service.d.`;
  return null;
}

async function isWritable(folder: string): Promise<boolean> {
  return await access(folder, constants.W_OK).then(
    () => true,
    () => false,
  );
}

async function preflight(deps: HostDriverDeps, spec: SliceSpec, signal: AbortSignal): Promise<Facts> {
  const wanted = hostAccessOf(spec.labels);
  if (wanted === "root" && deps.consent !== "root")
    throw new AppError("driver_unavailable", { detail: "This host is rented without root; see --rent-host." });
  if (spec.userData !== null && !spec.userData.startsWith("#!"))
    throw new AppError("task_rejected", {
      detail:
        "User data of bare metal is a script, which begins with #!: there is no cloud-init between tenant and host.",
    });
  if (spec.bandwidthMbitPerSecond !== undefined)
    throw new AppError("task_rejected", {
      detail: "Bare metal has the host's own network: it has no limit of bandwidth.",
    });
  const mine = await listSlices(deps.places);
  const others = [...(await deps.otherSlices(signal)), ...mine].filter((other) => !isSameSlice(other, spec));
  if (others.length > 0)
    throw new AppError("capacity_unavailable", {
      detail: `Bare metal is the whole host, and this one still has ${others.map(({ allocationId }) => allocationId).join(", ")}.`,
    });
  return { access: wanted };
}

/** From the folders and from the accounts: each may have outlived the other. */
async function listSlices(places: HostPlaces): Promise<readonly SliceReference[]> {
  const fromFolders = await listSliceFolders(places);
  const fromAccounts = (await readAccounts(places.etcDir)).flatMap(({ name, comment }) =>
    shortNameOf(name) === null ? [] : (parseComment(comment) ?? []),
  );
  return [...fromFolders, ...fromAccounts.filter((one) => !fromFolders.some((other) => isSameSlice(one, other)))];
}
