import {
  chmod,
  copyFile,
  cp,
  mkdir,
  readdir,
  readFile,
  realpath,
  symlink,
  truncate,
  utimes,
  writeFile,
  lutimes,
} from "node:fs/promises";
import { basename, dirname, join, relative } from "node:path";
import { cpioArchive, type CpioEntry } from "./cpio.ts";
import type { Unpacked } from "./debian.ts";
import { BOOT_MODULES, GUEST_FILES, LATE_MODULES } from "./packages.ts";
import { runProgram } from "./run-program.ts";
import { SOURCE_DIR } from "./source-digest.ts";

const MIB = 1024 * 1024;
const FAT_BYTES = 20 * MIB;
const ROOT_BYTES = 32 * MIB;
/** Every time stamp in the image. */
const EPOCH_SECONDS = 1_767_225_600;
const ROOT_UUID = "686f7374-6c65-4072-8067-756573740001";
const REPRODUCIBLE = {
  SOURCE_DATE_EPOCH: String(EPOCH_SECONDS),
  E2FSPROGS_FAKE_TIME: String(EPOCH_SECONDS),
  TZ: "UTC",
  MTOOLS_SKIP_CHECK: "1",
};
const ROOT_FOLDERS = [
  "bin",
  "dev",
  "etc/dropbear",
  "home",
  "lib/modules",
  "mnt",
  "proc",
  "root",
  "run",
  "sbin",
  "sys",
  "tmp",
  "usr/bin",
  "usr/sbin",
  "var/log",
  "var/lib",
];

/** The initramfs, uncompressed: it is small, and unpacking under emulation costs more than reading it. */
export async function initramfs(packages: Unpacked): Promise<Buffer> {
  const folders = ["bin", "dev", "modules", "root"].map((path): CpioEntry => ({ path, mode: 0o755, content: null }));
  const modules = await Promise.all(
    BOOT_MODULES.map(async (name, index): Promise<CpioEntry> => {
      const path = `modules/${String(index).padStart(2, "0")}-${name}.ko`;
      return { path, mode: 0o644, content: await readFile(await modulePath(packages, name)) };
    }),
  );
  return cpioArchive([
    ...folders,
    { path: "bin/busybox", mode: 0o755, content: await readFile(join(packages.guest, "bin/busybox")) },
    { path: "init", mode: 0o755, content: await readFile(join(SOURCE_DIR, "initramfs-init.sh")) },
    ...modules,
  ]);
}

/** A FAT file system with boot loader, kernel and initramfs, made without mounting anything. */
export async function bootPartition(options: {
  readonly packages: Unpacked;
  readonly workDir: string;
  readonly initramfs: Buffer;
}): Promise<Buffer> {
  const { packages, workDir } = options;
  const env = {
    ...REPRODUCIBLE,
    PATH: `${packages.tools}/usr/bin:${packages.tools}/sbin:${packages.tools}/usr/sbin:${process.env["PATH"] ?? ""}`,
  };
  const staging = join(workDir, "boot");
  await mkdir(staging);
  const kernel = (await readdir(join(packages.kernel, "boot"))).find((name) => name.startsWith("vmlinuz-"));
  if (kernel === undefined) throw new Error("the kernel package has no vmlinuz");
  await copyFile(join(packages.kernel, "boot", kernel), join(staging, "vmlinuz"));
  await writeFile(join(staging, "initrd"), options.initramfs);
  await copyFile(join(SOURCE_DIR, "syslinux.cfg"), join(staging, "syslinux.cfg"));

  const image = join(workDir, "boot.fat");
  await writeFile(image, "");
  await truncate(image, FAT_BYTES);
  await runProgram(["mkfs.fat", "--invariant", "-i", "484f5354", "-n", "HOSTLER", image], { env });
  for (const name of ["vmlinuz", "initrd", "syslinux.cfg"]) {
    await utimes(join(staging, name), EPOCH_SECONDS, EPOCH_SECONDS);
    await runProgram(["mcopy", "-m", "-i", image, join(staging, name), `::${name}`], { env });
  }
  await runProgram(["syslinux", "--install", image], { env });
  return await readFile(image);
}

/** The root file system: ext4, every owner root, every time the same. */
export async function rootPartition(options: {
  readonly packages: Unpacked;
  readonly workDir: string;
}): Promise<Buffer> {
  const tree = join(options.workDir, "root");
  await makeRootTree(options.packages, tree);
  const image = join(options.workDir, "root.ext4");
  await writeFile(image, "");
  await truncate(image, ROOT_BYTES);
  const settings = [
    "-U",
    ROOT_UUID,
    "-E",
    `hash_seed=${ROOT_UUID},root_owner=0:0`,
    "-O",
    "^metadata_csum",
    "-L",
    "hostler-root",
    "-m",
    "1",
  ];
  await runProgram(["mke2fs", "-q", "-t", "ext4", "-b", "4096", ...settings, "-d", tree, image], { env: REPRODUCIBLE });
  // mke2fs takes owner and change time from the build host's files; both are set to fixed values afterwards.
  const paths = (await readdir(tree, { recursive: true })).toSorted();
  const commands = paths.flatMap((path) =>
    ["uid 0", "gid 0", `ctime @${EPOCH_SECONDS}`, `atime @${EPOCH_SECONDS}`, `crtime @${EPOCH_SECONDS}`].map(
      (field) => `sif "/${path}" ${field}`,
    ),
  );
  const commandFile = join(options.workDir, "debugfs.commands");
  await writeFile(commandFile, `${commands.join("\n")}\n`);
  await runProgram(["debugfs", "-w", "-f", commandFile, image], { env: REPRODUCIBLE });
  return await readFile(image);
}

async function makeRootTree(packages: Unpacked, tree: string): Promise<void> {
  for (const folder of ROOT_FOLDERS) await mkdir(join(tree, folder), { recursive: true });
  for (const files of Object.values(GUEST_FILES)) {
    for (const file of files) await copyResolved(join(packages.guest, file), join(tree, guestPath(file)));
  }
  for (const module of LATE_MODULES)
    await copyFile(await modulePath(packages, module), join(tree, "lib/modules", `${module}.ko`));
  for (const applet of (await runProgram([join(packages.guest, "bin/busybox"), "--list"])).split("\n")) {
    const target = join(
      tree,
      ["init", "getty", "reboot", "poweroff", "halt"].includes(applet) ? "sbin" : "bin",
      applet,
    );
    if (applet !== "" && applet !== "busybox") await symlink("/bin/busybox", target);
  }
  await cp(join(SOURCE_DIR, "root"), tree, { recursive: true });
  await writeFile(join(tree, "etc/hostler/modules"), `${LATE_MODULES.join("\n")}\n`);
  await writeFile(join(tree, "etc/resolv.conf"), "");
  await chmod(join(tree, "etc/shadow"), 0o600);
  await chmod(join(tree, "root"), 0o700);
  await chmod(join(tree, "tmp"), 0o1777);
  for (const path of await readdir(tree, { recursive: true }))
    await lutimes(join(tree, path), EPOCH_SECONDS, EPOCH_SECONDS);
  await utimes(tree, EPOCH_SECONDS, EPOCH_SECONDS);
}

/** All libraries lie in one folder of the guest, where the loader looks first. */
function guestPath(file: string): string {
  return file.endsWith(".so") || /\.so\.\d+$/.test(file)
    ? file.startsWith("lib64/")
      ? file
      : `lib/x86_64-linux-gnu/${basename(file)}`
    : file;
}

/** Copies what a path stands for in the package; library names are links to the versioned file. */
async function copyResolved(source: string, target: string): Promise<void> {
  await mkdir(dirname(target), { recursive: true });
  await copyFile(await resolveInPackage(source), target);
  await chmod(target, 0o755);
}

/** The link in /lib64 is absolute in some versions of libc6; inside the unpacked tree it must stay there. */
async function resolveInPackage(source: string): Promise<string> {
  return await realpath(source).catch(async (error: unknown) => {
    const guest = source.slice(0, source.indexOf("/lib64/"));
    if (!source.includes("/lib64/")) throw error;
    return await realpath(join(guest, "lib/x86_64-linux-gnu", basename(source)));
  });
}

async function modulePath(packages: Unpacked, name: string): Promise<string> {
  const modules = join(packages.kernel, "lib/modules");
  const path = (await readdir(modules, { recursive: true })).find((entry) => basename(entry) === `${name}.ko`);
  if (path === undefined)
    throw new Error(
      `the kernel package has no module ${name}: it may be built in now; take it out of the list in ${relative(SOURCE_DIR, join(SOURCE_DIR, "packages.ts"))}`,
    );
  return join(modules, path);
}
