import { mkdir, mkdtemp, readFile, readlink, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { systemClock } from "@hostler/shared/clock.ts";
import type { CommandResult } from "../../ports/host-commands.ts";
import type { SysfsWrite, WriteResult } from "./guarded-write.ts";
import type { PciDeps } from "./pci-deps.ts";
import type { PciRoots } from "./pci-roots.ts";

export interface MadeFunction {
  readonly address: string;
  readonly group?: number | null;
  readonly class?: string;
  readonly device?: string;
  readonly driver?: string | null;
  /** Which driver takes it when no override says otherwise. */
  readonly natural?: string | null;
  readonly resetMethods?: string | null;
  readonly config?: Uint8Array;
  readonly isVirtual?: boolean;
  readonly files?: Readonly<Record<string, string>>;
}

export interface MadeHost extends PciDeps {
  readonly writes: readonly SysfsWrite[];
  /** Makes a process of the host that has the device file open. */
  hold(pid: number, command: string, file: string): Promise<void>;
  /** The function leaves the bus. */
  unplug(address: string): Promise<void>;
  readonly attribute: (address: string, name: string) => Promise<string>;
  readonly driverOf: (address: string) => Promise<string | null>;
  close(): Promise<void>;
}

interface MadeHostOptions {
  readonly drivers?: readonly string[];
  /** Called before each write: an answer is given instead of the write, a throw ends the world. */
  readonly onWrite?: (write: SysfsWrite) => WriteResult | null;
}

const present = async (path: string): Promise<boolean> =>
  await readlink(path).then(
    () => true,
    (error: unknown) => error instanceof Error && "code" in error && error.code === "EINVAL",
  );

/** A tree of folders that behaves as the kernel's own does when it is written to through the host's writer. */
export async function makeHost(functions: readonly MadeFunction[], options: MadeHostOptions = {}): Promise<MadeHost> {
  const folder = await mkdtemp(join(tmpdir(), "hostler-sysfs-"));
  const roots: PciRoots = { sysfs: join(folder, "sys"), dev: join(folder, "dev"), proc: join(folder, "proc") };
  const pci = join(roots.sysfs, "bus/pci");
  const at = (address: string, name = ""): string => join(pci, "devices", address, name);
  const known = new Map(functions.map((made) => [made.address, made]));
  const drivers = options.drivers ?? ["vfio-pci", "nvidia", "snd_hda_intel", "xhci_hcd", "nvme"];
  for (const name of drivers) await mkdir(join(pci, "drivers", name), { recursive: true });
  await mkdir(join(roots.proc, "sys/kernel/random"), { recursive: true });
  await writeFile(join(roots.proc, "sys/kernel/random/boot_id"), "boot-1\n");
  for (const made of functions) await makeFunction(roots, made);

  const driverOf = async (address: string): Promise<string | null> =>
    await readlink(at(address, "driver")).then(basename, () => null);
  const attach = async (address: string): Promise<void> => {
    if ((await driverOf(address)) !== null) return;
    const override = (await readFile(at(address, "driver_override"), "utf8")).trim();
    const made = known.get(address);
    const wanted =
      override === "(null)" ? (made?.natural ?? (made?.driver === undefined ? "nvidia" : made.driver)) : override;
    if (wanted !== null && (await present(join(pci, "drivers", wanted))))
      await symlink(join(pci, "drivers", wanted), at(address, "driver"));
  };
  const act = async (write: SysfsWrite): Promise<WriteResult> => {
    const refused = (errno: string): WriteResult => ({ state: "refused", errno, message: `dd: ${errno}` });
    if (basename(write.path) === "unbind") {
      if ((await driverOf(write.address)) === null) return refused("ENOENT");
      await rm(at(write.address, "driver"));
    } else if (basename(write.path) === "drivers_probe") await attach(write.text);
    else if (!(await present(write.path))) return refused("ENOENT");
    else if (basename(write.path) === "driver_override") await writeFile(write.path, `${write.text || "(null)"}\n`);
    else await writeFile(write.path, `${write.text}\n`);
    return { state: "written" };
  };
  const writes: SysfsWrite[] = [];
  return {
    roots,
    clock: systemClock,
    writes,
    writer: {
      write: async (write) => {
        const answer = options.onWrite?.(write) ?? null;
        writes.push(write);
        return answer ?? (await act(write));
      },
      stuckWrites: async () => [],
    },
    commands: {
      run: async ([program, name = ""]) => {
        const ok = (stdout: string): CommandResult => ({ exitCode: 0, stdout, stderr: "", durationMs: 1 });
        if (program === "cat") return ok(await readFile(name, "utf8"));
        if (name === "absent") return { ...ok(""), exitCode: 1, stderr: "not found" };
        await mkdir(join(pci, "drivers", name), { recursive: true });
        return ok("");
      },
    },
    driverOf,
    attribute: async (address, name) => (await readFile(at(address, name), "utf8")).trim(),
    hold: async (pid, command, file) => {
      const process = join(roots.proc, String(pid));
      await mkdir(join(process, "fd"), { recursive: true });
      await writeFile(join(process, "comm"), `${command}\n`);
      await symlink(join(roots.dev, file), join(process, "fd/7"));
    },
    unplug: async (address) => await rm(at(address), { recursive: true }),
    close: async () => await rm(folder, { recursive: true, force: true }),
  };
}

async function makeFunction(roots: PciRoots, made: MadeFunction): Promise<void> {
  const folder = join(roots.sysfs, "bus/pci/devices", made.address);
  await mkdir(join(folder, "power"), { recursive: true });
  const files: Record<string, string> = {
    vendor: "0x10de",
    device: made.device ?? "0x2330",
    class: made.class ?? "0x030200",
    driver_override: "(null)",
    numa_node: "0",
    d3cold_allowed: "1",
    "power/control": "auto",
    reset: "",
    ...(made.resetMethods === null ? {} : { reset_method: made.resetMethods ?? "flr bus" }),
    ...made.files,
  };
  for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), `${text}\n`);
  await writeFile(join(folder, "config"), made.config ?? headerOf("10de"));
  if (made.isVirtual === true) await symlink("../0000:86:00.0", join(folder, "physfn"));
  if (made.group !== null)
    await symlink(`../../../../kernel/iommu_groups/${made.group ?? 7}`, join(folder, "iommu_group"));
  const driver = made.driver === undefined ? "nvidia" : made.driver;
  if (driver !== null) await symlink(join(roots.sysfs, "bus/pci/drivers", driver), join(folder, "driver"));
}

/** The first 64 bytes of a function's configuration, with the vendor as hexadecimal digits. */
export function headerOf(vendor: string): Buffer {
  const header = Buffer.alloc(64);
  header.writeUInt16LE(Number.parseInt(vendor, 16), 0);
  return header;
}
