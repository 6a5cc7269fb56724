import { expect, test } from "vitest";
import { makeFindProgram } from "../../host/find-program.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import { isRoot, makePlaces, makeSpec, never } from "../testing.ts";
import { capabilityOf, decideRuntime, requireRuntime } from "./capability.ts";
import { containerPaths, firstIdOf } from "./container-paths.ts";
import { deviceAt, parseMountinfo } from "../../host/mountinfo.ts";
import { nspawnRuntime } from "./nspawn.ts";
import { podmanRuntime } from "./podman.ts";
import { parseMark } from "./slice-processes.ts";

const spec = makeSpec({ driver: "container", vcpus: 4, memoryMib: 2048, hostName: "guest" });
const paths = containerPaths({ stateDir: "/var/lib/hostler-agent/a:b", runDir: "/run/hostler-agent" }, spec);
const settings = {
  spec,
  paths,
  fence: "9",
  firstId: firstIdOf({ index: 3 }),
  busybox: "/bin/busybox",
  devices: [],
  files: [],
};

test("every slice of a host has a range of ids of its own, in what systemd keeps free for containers", () => {
  expect(firstIdOf({ index: 0 })).toBe(0x80000);
  expect(firstIdOf({ index: 1 }) - firstIdOf({ index: 0 })).toBe(65_536);
  expect(firstIdOf({ index: 16_383 }) + 65_535).toBeLessThan(0x6fffffff);
});

test("a container is confined, says whose it is, and no shell of the host reads its command line", () => {
  const argv = nspawnRuntime.argv(settings);
  expect(argv).toEqual(
    expect.arrayContaining([
      `--private-users=${0x80000 + 3 * 65_536}:65536`,
      "--no-new-privileges=yes",
      expect.stringMatching(/^--drop-capability=.*CAP_MKNOD/),
      `--network-veth-extra=ht${paths.name}:eth0`,
      "--hostname=guest",
    ]),
  );
  expect(argv.join("\0")).not.toMatch(/--(?:capability=|system-call-filter|bind=|boot|network-macvlan|port)/);
  expect(parseMark(argv.join("\0"))).toEqual({ allocationId: spec.allocationId, generation: 1 });
  // nspawn would split an unescaped path there.
  expect(argv.join("\0")).toContain("--bind-ro=/var/lib/hostler-agent/a\\:b/slices/");
});

test("only what is named is a device or a file of the host in the container", () => {
  const files = [{ source: "/usr/lib/lib:1.so", target: "/usr/lib/lib.so" }];
  const given = { ...settings, devices: ["/dev/some0"], files };
  const argv = nspawnRuntime.argv(given);
  expect(argv.filter((word) => word.startsWith("--bind="))).toEqual(["--bind=/dev/some0"]);
  expect(argv).toContain("--bind-ro=/usr/lib/lib\\:1.so:/usr/lib/lib.so");
  expect(podmanRuntime.argv(given)).toEqual(
    expect.arrayContaining(["--device=/dev/some0", "--volume=/usr/lib/lib:1.so:/usr/lib/lib.so:ro"]),
  );
});

test("podman's container has the same ids, confinement and init, limits of its own, and no network but ours", () => {
  const argv = podmanRuntime.argv(settings);
  expect(argv).toEqual(
    expect.arrayContaining([
      `--uidmap=0:${settings.firstId}:65536`,
      `--gidmap=0:${settings.firstId}:65536`,
      "--security-opt=no-new-privileges",
      "--cap-drop=CAP_MKNOD",
      "--network=none",
      "--memory=2048m",
      "--cpus=4",
    ]),
  );
  expect(argv.join(" ")).not.toMatch(/--privileged|unconfined|--publish|host\b.*--pid/);
  expect(argv.slice(-3)).toEqual(nspawnRuntime.argv(settings).slice(-3));
  expect(parseMark(argv.join("\0"))).toEqual({ allocationId: spec.allocationId, generation: 1 });
});

test("a mark that only looks like ours is nobody's", () => {
  expect(parseMark("HOSTLER_SLICE=alc_1")).toBeNull();
  expect(parseMark("OTHER_HOSTLER_SLICES=alc_1.1.1")).toBeNull();
});

test("the device of a mount is that of the last mount on exactly that place", () => {
  const list = [
    "29 1 7:0 / /run/a\\040b/root rw - ext4 /dev/loop0 rw",
    "30 1 7:1 / /run/a\\040b/root rw - ext4 /dev/loop1 rw",
    "31 1 7:2 / /run/a\\040b/root/deeper rw - ext4 /dev/loop2 rw",
  ].join("\n");
  expect(deviceAt(parseMountinfo(list), "/run/a b/root")).toBe("7:1");
  expect(deviceAt(parseMountinfo(list), "/run/a b")).toBeNull();
});

async function decide(host: HostCommands, programs: readonly string[]) {
  const places = await makePlaces();
  try {
    const find = async (name: string): Promise<string | null> => (programs.includes(name) ? `/bin/${name}` : null);
    return await decideRuntime({ host, runDir: places.runDir, hasLimits: false, find }, never);
  } finally {
    await places.remove();
  }
}

const HELPERS = [
  "ip",
  "nft",
  "tar",
  "mke2fs",
  "resize2fs",
  "cp",
  "mount",
  "umount",
  "nsenter",
  "prlimit",
  "setpriv",
  "busybox",
];
/** A host on which these runtimes run a container, and others end with a message. */
const hostWhere = (...working: readonly string[]): HostCommands => ({
  run: async (argv) => {
    const works = working.some((name) => argv.includes(name));
    return { exitCode: works ? 0 : 125, stdout: "", stderr: works ? "" : "Error: no cgroup2 here\n", durationMs: 1 };
  },
});

test.skipIf(!isRoot)(
  "the first runtime that runs a container is taken, and the note says why not the others",
  async () => {
    const both = [...HELPERS, "systemd-nspawn", "podman"];
    const nspawn = await decide(hostWhere("systemd-nspawn", "podman"), both);
    expect(requireRuntime(nspawn).runtime.name).toBe("systemd-nspawn");
    expect(nspawn.note).toContain("memory and processors not limited");
    const podman = await decide(hostWhere("podman"), both);
    expect(requireRuntime(podman).runtime.name).toBe("podman");
    expect(podman.note).toContain("systemd-nspawn does not work (Error: no cgroup2 here)");
    const none = await decide(hostWhere(), both);
    expect(capabilityOf(none)).toMatchObject({ usable: false, note: expect.stringContaining("no cgroup2 here") });
    expect(() => requireRuntime(none)).toThrow("No container runtime works here");
  },
);

test.skipIf(!isRoot)("a host that lacks programs says which packages bring them", async () => {
  const bare = await decide(hostWhere("systemd-nspawn"), []);
  expect(bare.note).toContain("apt-get install");
  for (const name of ["nftables", "busybox-static", "e2fsprogs"]) expect(bare.note).toContain(name);
  const noRuntime = await decide(hostWhere(), HELPERS);
  expect(noRuntime.note).toContain("systemd-nspawn is not installed");
  expect(noRuntime.note).toContain("apt-get install systemd-container");
  expect(await makeFindProgram([])("systemd-nspawn")).toBeNull();
});
