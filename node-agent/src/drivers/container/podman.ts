import { IDS_PER_SLICE, machineNameOf } from "./container-paths.ts";
import { GUEST_BUSYBOX, GUEST_SEED, initArgv } from "./guest-init.ts";
import { DROPPED_CAPABILITIES, PROCESSES_MAX, type ContainerRuntime } from "./runtime.ts";
import { markOf } from "./slice-processes.ts";

const CONFINED = [
  "--security-opt=no-new-privileges",
  ...DROPPED_CAPABILITIES.map((capability) => `--cap-drop=${capability}`),
];
/** Names and networks are ours; what the container says goes to our console file and nowhere else. */
const ALONE = ["--rm", "--replace", "--network=none", "--log-driver=none", "--systemd=false", "--tmpfs=/run"] as const;
const PROBE_FIRST_ID = 0x60000000;

/**
 * Podman over the same mounted disk, for hosts where nspawn does not work. Its network is plugged in from the host. The disk's
 * ids are mapped by the mount (`idmap`), which Debian 12's 4.3.1 does not know: there the probe refuses it.
 */
export const podmanRuntime: ContainerRuntime = {
  name: "podman",
  cable: "host",
  argv: ({ spec, paths, fence, firstId, busybox, devices, files }) => [
    "podman",
    "run",
    ...ALONE,
    ...CONFINED,
    ...[`--name=${machineNameOf(paths.name)}`, `--hostname=${spec.hostName}`, `--env=${markOf(spec, fence)}`],
    ...idsFrom(firstId),
    ...[
      "--cap-add=CAP_NET_ADMIN",
      `--memory=${spec.memoryMib}m`,
      `--cpus=${spec.vcpus}`,
      `--pids-limit=${PROCESSES_MAX}`,
    ],
    ...[`--volume=${paths.seed}:${GUEST_SEED}:ro`, `--volume=${busybox}:${GUEST_BUSYBOX}:ro`],
    ...devices.map((device) => `--device=${device}`),
    ...files.map(({ source, target }) => `--volume=${source}:${target}:ro`),
    ...["--rootfs", `${paths.root}:idmap`, ...initArgv(devices)],
  ],
  probeArgv: ({ root, busybox }) => [
    "podman",
    "run",
    ...ALONE,
    ...CONFINED,
    ...["--name=hostler-probe", ...idsFrom(PROBE_FIRST_ID), `--volume=${busybox}:${GUEST_BUSYBOX}:ro`],
    ...["--rootfs", `${root}:idmap`, GUEST_BUSYBOX, "true"],
  ],
};

function idsFrom(firstId: number): readonly string[] {
  return [`--uidmap=0:${firstId}:${IDS_PER_SLICE}`, `--gidmap=0:${firstId}:${IDS_PER_SLICE}`];
}
