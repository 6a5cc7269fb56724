import { tapName } from "../network/host-links.ts";
import { IDS_PER_SLICE, machineNameOf } from "./container-paths.ts";
import { GUEST_BUSYBOX, GUEST_LINK, GUEST_SEED, initArgv } from "./guest-init.ts";
import { DROPPED_CAPABILITIES, PROCESSES_MAX, type ContainerRuntime } from "./runtime.ts";
import { markOf } from "./slice-processes.ts";

/** Locks are ours: the supervisor's name, the slice's folder. Those of nspawn would outlive a kill. */
const ENVIRONMENT = ["env", "SYSTEMD_NSPAWN_LOCK=0"] as const;
/** Nothing is asked of, or told to, a manager of machines: it is not everywhere, and our supervisor is. */
const ALONE = ["--quiet", "--register=no", "--keep-unit", "--link-journal=no", "--settings=no"] as const;
/** The host's own files stay the host's: the container's init writes what it needs. */
const UNTOUCHED = ["--resolv-conf=off", "--timezone=off"] as const;
const CONFINED = [
  "--no-new-privileges=yes",
  `--drop-capability=${DROPPED_CAPABILITIES.join(",")}`,
  `--rlimit=NPROC=${PROCESSES_MAX}`,
] as const;

/**
 * systemd's own container program: a user name space over an own range of ids, its default filter of system calls, no new
 * privileges. The disk's ids are mapped by the mount where the kernel can, and written once where it cannot.
 */
export const nspawnRuntime: ContainerRuntime = {
  name: "systemd-nspawn",
  cable: "runtime",
  argv: ({ spec, paths, fence, firstId, busybox, devices, files }) => [
    ...ENVIRONMENT,
    "systemd-nspawn",
    ...ALONE,
    ...UNTOUCHED,
    ...CONFINED,
    ...[`--machine=${machineNameOf(paths.name)}`, `--hostname=${spec.hostName}`, `--setenv=${markOf(spec, fence)}`],
    ...[`--directory=${paths.root}`, ...idsFrom(firstId)],
    `--network-veth-extra=${tapName(paths.name)}:${GUEST_LINK}`,
    ...[`--bind-ro=${escaped(paths.seed)}:${GUEST_SEED}`, `--bind-ro=${escaped(busybox)}:${GUEST_BUSYBOX}`],
    ...devices.map((device) => `--bind=${escaped(device)}`),
    ...files.map(({ source, target }) => `--bind-ro=${escaped(source)}:${escaped(target)}`),
    // Signal 37 is what systemd takes as a request to halt; our init takes it too.
    ...["--console=pipe", "--kill-signal=RTMIN+3", "--", ...initArgv(devices)],
  ],
  probeArgv: ({ root, busybox }) => [
    ...ENVIRONMENT,
    "systemd-nspawn",
    ...ALONE,
    ...UNTOUCHED,
    ...CONFINED,
    ...["--machine=hostler-probe", `--directory=${root}`, ...idsFrom(PROBE_FIRST_ID), "--private-network"],
    ...[`--bind-ro=${escaped(busybox)}:${GUEST_BUSYBOX}`, "--console=pipe", "--", GUEST_BUSYBOX, "true"],
  ],
};

/** Above every slice's range. */
const PROBE_FIRST_ID = 0x60000000;

function idsFrom(firstId: number): readonly string[] {
  return [`--private-users=${firstId}:${IDS_PER_SLICE}`, "--private-users-ownership=auto"];
}

/** nspawn splits at colons. */
function escaped(path: string): string {
  return path.replaceAll("\\", "\\\\").replaceAll(":", "\\:");
}
