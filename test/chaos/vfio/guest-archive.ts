import { createHash } from "node:crypto";
import { access, mkdir, mkdtemp, readdir, readFile, realpath, rename, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { cpioArchive, type CpioEntry } from "../../../deploy/guest-image/cpio.ts";
import { fetchPackages, packageVersions } from "../../../deploy/guest-image/debian.ts";
import { runProgram } from "../../../deploy/guest-image/run-program.ts";
import { ROOT, sourceFiles } from "./source-files.ts";

/** The guest's kernel is the one of real hosts: the one for clouds has no drivers for the cards that the cases use. */
const KERNEL_META_PACKAGE = "linux-image-amd64";
const LIBRARIES = "lib/x86_64-linux-gnu";
const PACKAGE_FILES: Readonly<Record<string, readonly string[]>> = {
  "busybox-static": ["bin/busybox"],
  coreutils: ["bin/dd", "bin/cat"],
  "perl-base": ["usr/bin/perl"],
  "libgcc-s1": [`${LIBRARIES}/libgcc_s.so.1`],
  libcrypt1: [`${LIBRARIES}/libcrypt.so.1`],
  "libstdc++6": ["usr/lib/x86_64-linux-gnu/libstdc++.so.6"],
  libc6: [
    "lib64/ld-linux-x86-64.so.2",
    ...["libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0"].map((name) => `${LIBRARIES}/${name}`),
  ],
};
const MODULES = ["nvme", "e1000e", "xhci-pci", "vfio-pci", "vfio_iommu_type1"];
const ENTRY = "test/chaos/vfio/guest/main.ts";

export interface GuestArchive {
  readonly kernel: string;
  readonly initramfs: string;
}

/** Kernel and initramfs of a guest that runs our code on real PCI functions: Node, our sources and a few programs of Debian. */
export async function buildGuestArchive(workDir: string): Promise<GuestArchive> {
  const text = await runProgram(["apt-cache", "depends", KERNEL_META_PACKAGE]);
  const kernelPackage = /Depends: (linux-image-\S+)/.exec(text)?.[1];
  if (kernelPackage === undefined) throw new Error(`apt does not say which kernel ${KERNEL_META_PACKAGE} stands for.`);
  const wanted = [...Object.keys(PACKAGE_FILES), kernelPackage];
  const known = await packageVersions(wanted);
  const versions = Object.fromEntries(wanted.map((name) => [name, known[name] ?? ""]));
  const archives = await fetchPackages(versions, join(ROOT, ".cache/debian-packages"));
  const folders = new Map<string, string>();
  for (const [name, archive] of Object.entries(archives)) folders.set(name, await unpacked(name, archive));
  const kernelFolder = folders.get(kernelPackage) ?? "";
  const vmlinuz = (await readdir(join(kernelFolder, "boot"))).find((name) => name.startsWith("vmlinuz-"));
  if (vmlinuz === undefined) throw new Error(`${kernelPackage} has no vmlinuz.`);
  const initramfs = join(workDir, "initramfs");
  const entries = [
    ...(await programEntries(folders)),
    ...(await moduleEntries(join(kernelFolder, "lib/modules"))),
    ...(await ourEntries()),
  ];
  await writeFile(initramfs, cpioArchive(withFolders(entries)));
  return { kernel: join(kernelFolder, "boot", vmlinuz), initramfs };
}

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

async function programEntries(folders: ReadonlyMap<string, string>): Promise<CpioEntry[]> {
  const entries: CpioEntry[] = [];
  for (const [name, files] of Object.entries(PACKAGE_FILES))
    for (const file of files) {
      const source = await resolved(folders.get(name) ?? "", file);
      // One folder for all libraries, where the loader looks.
      const path = file.includes(".so.") && !file.startsWith("lib64/") ? `${LIBRARIES}/${basename(file)}` : file;
      entries.push({ path, mode: 0o755, content: await readFile(source) });
    }
  return entries;
}

/** The loader's link is absolute in some versions of the package. */
async function resolved(folder: string, file: string): Promise<string> {
  return await realpath(join(folder, file)).catch(async () => await realpath(join(folder, LIBRARIES, basename(file))));
}

/** The modules with what they need, in one folder, and the list of who needs whom that modprobe reads. */
async function moduleEntries(modulesFolder: string): Promise<CpioEntry[]> {
  const [version = ""] = await readdir(modulesFolder);
  const all = await readdir(join(modulesFolder, version), { recursive: true });
  const pathOf = new Map(
    all.filter((path) => path.endsWith(".ko")).map((path) => [plain(basename(path, ".ko")), path]),
  );
  const contents = new Map<string, Buffer>();
  const needs = new Map<string, readonly string[]>();
  const waiting = MODULES.map(plain);
  for (let name = waiting.pop(); name !== undefined; name = waiting.pop()) {
    if (contents.has(name)) continue;
    const path = pathOf.get(name);
    if (path === undefined) throw new Error(`The kernel package has no module ${name}.`);
    const content = await readFile(join(modulesFolder, version, path));
    const named = /\0depends=([^\0]*)\0/.exec(content.toString("latin1"))?.[1] ?? "";
    needs.set(
      name,
      named
        .split(",")
        .filter((need) => need !== "")
        .map(plain),
    );
    contents.set(name, content);
    waiting.push(...(needs.get(name) ?? []));
  }
  const allNeeds = (name: string): string[] => {
    const direct = needs.get(name) ?? [];
    return [...new Set([...direct, ...direct.flatMap(allNeeds)])];
  };
  const lines = [...needs.keys()].map(
    (name) =>
      `${name}.ko: ${allNeeds(name)
        .map((need) => `${need}.ko`)
        .join(" ")}`,
  );
  const folder = `lib/modules/${version}`;
  return [
    ...[...contents].map(([name, content]) => ({ path: `${folder}/${name}.ko`, mode: 0o644, content })),
    { path: `${folder}/modules.dep`, mode: 0o644, content: Buffer.from(`${lines.join("\n")}\n`) },
  ];
}

async function ourEntries(): Promise<CpioEntry[]> {
  const guest = join(import.meta.dirname, "guest");
  const entries: CpioEntry[] = [
    { path: "init", mode: 0o755, content: await readFile(join(guest, "init.sh")) },
    { path: "usr/bin/node", mode: 0o755, content: await readFile(process.execPath) },
    { path: "hold-device.pl", mode: 0o644, content: await readFile(join(guest, "hold-device.pl")) },
  ];
  for (const file of await sourceFiles(ENTRY))
    entries.push({ path: `hostler/${file.path}`, mode: 0o644, content: file.content });
  return entries;
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

async function exists(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  );
}
