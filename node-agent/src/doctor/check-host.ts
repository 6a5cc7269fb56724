import { access } from "node:fs/promises";
import { reasonNotOpen, readVerdict } from "../drivers/qemu/accelerator.ts";
import { missingPrograms } from "../drivers/qemu/qemu-driver.ts";
import { readBootId } from "../host/facts.ts";
import { PROGRAM_PACKAGES } from "../host/host-commands.ts";
import { makeDiskFiles } from "../journal/disk-files.ts";
import { ok, problem, skipped, warning, type Outcome } from "./finding.ts";
import type { Scene } from "./scene.ts";

/** The programs that the QEMU driver runs; those for tap networks alone can be missing, at the price of the network. */
export async function checkPrograms(scene: Scene): Promise<readonly Outcome[]> {
  const { find, userId } = scene.deps;
  const needed = await missingPrograms({ network: "user", find });
  const all = await missingPrograms({ network: "tap", find });
  const forTap = userId === 0 ? all.filter((program) => !needed.includes(program)) : [];
  const trouble: Outcome[] = [];
  if (needed.length > 0)
    trouble.push(
      problem({
        text: `not installed: ${needed.join(", ")}`,
        matters: "no virtual machine can run here, only the mock driver",
        remedy: installation(needed),
      }),
    );
  if (forTap.length > 0)
    trouble.push(
      warning({
        text: `not installed: ${forTap.join(", ")}`,
        matters: "slices get QEMU's user network instead of a tap of their own",
        remedy: installation(forTap),
      }),
    );
  return trouble.length > 0 ? trouble : [ok("all that the QEMU driver runs are installed")];
}

/** The device, and what the agent's test machine on it came to since the host was booted; none is started for this. */
export async function checkKvm(scene: Scene): Promise<readonly Outcome[]> {
  const { kvm } = scene.deps.devices;
  const closed = await reasonNotOpen(kvm);
  // A state folder that we may not read has its own finding.
  const tried = await readVerdict(makeDiskFiles(scene.stateDir)).catch(() => null);
  const failed = tried?.accelerator === "tcg" && tried.bootId === (await readBootId()) ? tried.reason : null;
  const matters = "virtual machines are emulated, which is slow";
  if (closed !== null)
    return [
      warning({
        text: closed,
        matters,
        remedy:
          "Switch virtualization on in the firmware, then: modprobe kvm_intel || modprobe kvm_amd; a user other than root also needs: usermod -aG kvm USER",
      }),
    ];
  if (failed === null) return [ok(`${kvm} can be opened`)];
  const remedy = `If this host is itself a virtual machine, its hypervisor has to nest properly; after a change: rm ${scene.stateDir}/accelerator.json, and restart the agent.`;
  return [warning({ text: failed, matters, remedy })];
}

export async function checkTun(scene: Scene): Promise<readonly Outcome[]> {
  const { tun } = scene.deps.devices;
  if (scene.deps.userId !== 0) return [skipped("only root makes taps; slices get QEMU's user network")];
  const isThere = await access(tun).then(
    () => true,
    () => false,
  );
  if (isThere) return [ok(`${tun} is there`)];
  const matters = "slices get QEMU's user network instead of a tap of their own";
  return [warning({ text: `there is no ${tun}`, matters, remedy: "modprobe tun" })];
}

function installation(programs: readonly string[]): string {
  const packages = programs.map((program) => PROGRAM_PACKAGES[program] ?? program);
  return `apt-get install ${[...new Set(packages)].join(" ")}`;
}
