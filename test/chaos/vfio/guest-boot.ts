import { createHash } from "node:crypto";
import { chmod, mkdir, mkdtemp, readdir, readFile, realpath, rename, symlink, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { exists } from "@hostler/node-agent/host/exists.ts";
import { cpioArchive, type CpioEntry } from "../../../deploy/guest-image/cpio.ts";
import { fetchPackages, packageVersions } from "../../../deploy/guest-image/debian.ts";
import { runProgram } from "../../../deploy/guest-image/run-program.ts";

export const ROOT = join(import.meta.dirname, "../../..");
/** The guest's kernel is the one of real hosts: the one for clouds has no drivers for the cards that the cases use. */
const KERNEL_META_PACKAGE = "linux-image-amd64";
const BUSYBOX_PACKAGE = "busybox-static";
/** What the guest loads before it has its root: the way there, the drivers of the cards, and what volumes are made with. */
const MODULES = [
  ...["virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_net"],
  ...["nvme", "e1000e", "xhci-pci", "vfio_iommu_type1"],
  ...["loop", "dm-thin-pool"],
];
const GUEST = join(import.meta.dirname, "guest");

export interface GuestBoot {
  readonly kernel: string;
  readonly initramfs: string;
  /** What the guest finds beside the root of this host: its settings, and files that it lays over the root. */
  readonly lab: string;
}

/** Kernel, first program and settings of a guest whose root is this host's own, with our units and whatever `overlay` writes into it. */
export async function prepareGuestBoot(
  workDir: string,
  options: { readonly agentArgs: readonly string[]; overlay(root: string): Promise<void> },
): Promise<GuestBoot> {
  const text = await runProgram(["apt-cache", "depends", KERNEL_META_PACKAGE]);
  const kernelPackage = /Depends: (linux-image-\S+)/.exec(text)?.[1];
  if (kernelPackage === undefined) throw new Error(`apt does not say which kernel ${KERNEL_META_PACKAGE} stands for.`);
  const known = await packageVersions([BUSYBOX_PACKAGE, kernelPackage]);
  const versions = Object.fromEntries([BUSYBOX_PACKAGE, kernelPackage].map((name) => [name, known[name] ?? ""]));
  const archives = await fetchPackages(versions, join(ROOT, ".cache/debian-packages"));
  const folderOf = async (name: string): Promise<string> => await unpacked(name, archives[name] ?? "");
  const [kernelFolder, busyboxFolder] = [await folderOf(kernelPackage), await folderOf(BUSYBOX_PACKAGE)];
  const busybox = join(busyboxFolder, "bin/busybox");
  const vmlinuz = (await readdir(join(kernelFolder, "boot"))).find((name) => name.startsWith("vmlinuz-"));
  if (vmlinuz === undefined) throw new Error(`${kernelPackage} has no vmlinuz.`);
  const modules = join(kernelFolder, "lib/modules");
  const [version = ""] = await readdir(modules);
  if (!(await exists(join(modules, version, "modules.alias"))))
    await runProgram([busybox, "depmod", "-b", kernelFolder, version]);
  const initramfs = join(workDir, "initramfs");
  const entries: CpioEntry[] = [
    { path: "init", mode: 0o755, content: await readFile(join(GUEST, "init.sh")) },
    { path: "bin/busybox", mode: 0o755, content: await readFile(busybox) },
    ...(await moduleEntries(modules)),
  ];
  await writeFile(initramfs, cpioArchive(withFolders(entries)));
  const lab = join(workDir, "lab");
  await writeRoot(join(lab, "root"), { busybox, agentArgs: options.agentArgs });
  await compileAgent(join(lab, "root/var/cache/hostler-agent"));
  await options.overlay(join(lab, "root"));
  const settings = { REPOSITORY: await realpath(ROOT), MODULES: await realpath(modules) };
  const lines = Object.entries(settings).map(([name, path]) => `${name}='${path}'\n`);
  await writeFile(join(lab, "settings"), lines.join(""));
  return { kernel: join(kernelFolder, "boot", vmlinuz), initramfs, lab };
}

/** What differs from this host: units of ours alone, the agent as an installed program, and a modprobe where this host has none. */
async function writeRoot(
  root: string,
  { busybox, agentArgs }: { readonly busybox: string; readonly agentArgs: readonly string[] },
): Promise<void> {
  const units = join(root, "etc/systemd/system");
  await mkdir(join(units, "hostler-agent.service.d"), { recursive: true });
  for (const name of MASKED_UNITS) await symlink("/dev/null", join(units, name));
  await writeFile(join(units, "hostler-lab.target"), LAB_TARGET);
  await writeFile(join(units, "hostler-shell.service"), SHELL_UNIT);
  await writeFile(join(units, "dbus.socket"), BUS_SOCKET);
  await writeFile(join(units, "dbus.service"), BUS_UNIT);
  await mkdir(join(root, "etc/hostler-lab"));
  await writeFile(join(root, "etc/hostler-lab/bus.conf"), BUS_SETTINGS);
  const unit = await readFile(join(ROOT, "deploy/systemd/hostler-agent.service"));
  await writeFile(join(units, "hostler-agent.service"), unit);
  const start = `[Service]\nExecStart=\nExecStart=/usr/bin/hostler-agent run ${agentArgs.join(" ")}\n`;
  await writeFile(join(units, "hostler-agent.service.d/lab.conf"), start);
  const programs = join(root, "usr/bin");
  await mkdir(programs, { recursive: true });
  const node = `/opt/hostler/${(await realpath(process.execPath)).slice((await realpath(ROOT)).length + 1)}`;
  const agent = `#!/bin/sh\nNODE_COMPILE_CACHE=/var/cache/hostler-agent exec ${node} /opt/hostler/node-agent/src/main.ts "$@"\n`;
  await writeFile(join(programs, "hostler-agent"), agent);
  await writeFile(join(programs, "node"), `#!/bin/sh\nexec ${node} "$@"\n`);
  await writeFile(join(programs, "busybox"), await readFile(busybox));
  for (const name of ["hostler-agent", "node", "busybox"]) await chmod(join(programs, name), 0o755);
  await mkdir(join(root, "usr/sbin"));
  await symlink("/usr/bin/busybox", join(root, "usr/sbin/modprobe"));
}

/**
 * What Node makes of the agent's sources, in the cache of its unit: emulated, it would take half a minute at each start. The cache goes
 * by paths, so the sources are put where the guest has them, in a view of the file system that only this process has.
 */
async function compileAgent(cache: string): Promise<void> {
  const steps = [
    "mount -t tmpfs opt /opt && mkdir /opt/hostler",
    'mount --bind "$0" /opt/hostler',
    'NODE_COMPILE_CACHE="$1" exec "$2" /opt/hostler/node-agent/src/main.ts help',
  ];
  await runProgram(["unshare", "--mount", "sh", "-c", steps.join(" && "), ROOT, cache, process.execPath]);
}

/** Nothing of a usual boot that the agent does not need: emulated, each costs a second. */
const MASKED_UNITS = [
  ...["systemd-udevd.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket"],
  ...["systemd-udev-trigger.service", "systemd-udev-settle.service", "systemd-hwdb-update.service"],
  ...["systemd-tmpfiles-setup-dev.service", "systemd-tmpfiles-setup.service", "systemd-modules-load.service"],
  ...["systemd-journal-catalog-update.service", "systemd-update-done.service", "systemd-machine-id-commit.service"],
  ...["systemd-sysusers.service", "systemd-random-seed.service", "systemd-boot-system-token.service"],
  ...["systemd-firstboot.service", "systemd-update-utmp.service", "ldconfig.service", "systemd-binfmt.service"],
  ...["systemd-journal-flush.service", "systemd-pcrphase-sysinit.service", "systemd-pcrmachine.service"],
  ...["getty.target", "swap.target", "cryptsetup.target", "integritysetup.target", "veritysetup.target"],
];

const LAB_TARGET = `[Unit]
Description=The guest takes orders
Requires=dbus.service hostler-shell.service
`;

/** Real hosts have it; systemd-run waits for programs over it. Nobody but root is in the guest. */
const BUS_SOCKET = `[Unit]
Description=System bus
[Socket]
ListenStream=/run/dbus/system_bus_socket
`;
const BUS_UNIT = `[Unit]
Description=System bus
Requires=dbus.socket
[Service]
ExecStart=/usr/bin/dbus-daemon --config-file=/etc/hostler-lab/bus.conf --address=systemd: --nofork --nopidfile
`;
const BUS_SETTINGS = `<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow own="*"/><allow send_destination="*" eavesdrop="true"/><allow receive_sender="*"/>
  </policy>
</busconfig>
`;

const SHELL_UNIT = `[Unit]
Description=Runs what comes over the second serial line
[Service]
ExecStart=/bin/sh /opt/hostler/test/chaos/vfio/guest/shell.sh
`;

/** Kept between runs; a run that was broken off leaves nothing under the name. */
async function unpacked(name: string, archive: string): Promise<string> {
  const digest = createHash("sha256").update(basename(archive)).digest("hex").slice(0, 16);
  const parent = join(ROOT, ".cache/vfio-guest");
  const folder = join(parent, `${name}-${digest}`);
  if (await exists(folder)) return folder;
  await mkdir(parent, { recursive: true });
  const fresh = await mkdtemp(join(parent, "unpacking-"));
  await runProgram(["dpkg-deb", "--extract", archive, fresh]);
  await rename(fresh, folder);
  return folder;
}

/** The modules with what they need, where the kernel package has them, and as much of its list of who needs whom. */
async function moduleEntries(modulesFolder: string): Promise<CpioEntry[]> {
  const [version = ""] = await readdir(modulesFolder);
  const lines = (await readFile(join(modulesFolder, version, "modules.dep"), "utf8")).split("\n");
  const wanted = MODULES.map((name) => {
    const line = lines.find((each) => plain(each).includes(`/${plain(name)}.ko:`));
    if (line === undefined) throw new Error(`The kernel package has no module ${name}.`);
    return line;
  });
  const paths = [...new Set(wanted.flatMap((line) => line.replace(":", "").split(" ")))].filter((path) => path !== "");
  const needed = lines.filter((line) => paths.includes(line.split(":")[0] ?? ""));
  const folder = `lib/modules/${version}`;
  return [
    ...(await Promise.all(
      paths.map(async (path) => ({
        path: `${folder}/${path}`,
        mode: 0o644,
        content: await readFile(join(modulesFolder, version, path)),
      })),
    )),
    { path: `${folder}/modules.dep`, mode: 0o644, content: Buffer.from(`${needed.join("\n")}\n`) },
    { path: "modules", mode: 0o644, content: Buffer.from(MODULES.map((name) => `${name}\n`).join("")) },
  ];
}

/** Every folder before what lies in it. */
function withFolders(files: readonly CpioEntry[]): readonly CpioEntry[] {
  const folders = new Set(["proc", "sys", "dev", "tmp"]);
  for (const file of files)
    for (let folder = dirname(file.path); folder !== "."; folder = dirname(folder)) folders.add(folder);
  return [...[...folders].toSorted().map((path) => ({ path, mode: 0o755, content: null })), ...files];
}

function plain(name: string): string {
  return name.replaceAll("-", "_");
}
