import { execFile, spawn, type ChildProcess } from "node:child_process";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { systemClock } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import { quantile } from "../../support/suite.ts";
import { findProgram } from "../../support/find-program.ts";
import { waitFor } from "../../support/wait-for.ts";

const run = promisify(execFile);
const CONNECT = ["--connect", "qemu:///system"] as const;
/** virt-install talks to the first; the others are what it needs of the rest. */
const DAEMONS = ["virtlogd", "virtlockd", "libvirtd"] as const;
/** Machines of a broken KVM hang, and libvirt tries it for a minute and more before each start. We emulate here, and so does it. */
const WITHOUT_KVM = [
  "unshare",
  "--mount",
  "sh",
  "-c",
  '[ ! -e /dev/kvm ] || mount --bind /dev/null /dev/kvm; exec "$0"',
];
const INSTALL_TIMEOUT_MS = 120_000;
const never = new AbortController().signal;

/** How long libvirt's own tool takes until it says that a machine of the same image runs; no network and no seed. */
export async function measureVirtInstall(
  options: { readonly image: string; readonly folder: string; readonly runs: number },
  say: (line: string) => void,
): Promise<Readonly<Record<string, number | string>>> {
  for (const name of ["virt-install", ...DAEMONS])
    if ((await findProgram(name)) === null)
      return { unavailable: `${name} is not installed: apt-get install virtinst libvirt-daemon-system` };
  const folder = await mkdtemp(join(options.folder, "virt-install-"));
  // libvirt runs its machines as a user of their own.
  await chmod(folder, 0o755);
  const [program = "", ...args] = WITHOUT_KVM;
  const daemons = DAEMONS.map((name) => spawn(program, [...args, name], { stdio: "ignore" }));
  try {
    await waitFor("libvirtd answers", async () => await answers(), { timeoutMs: 30_000 });
    const times: number[] = [];
    for (let index = 0; index < options.runs; index += 1)
      times.push(
        await installOnce(`hostler-bench-${process.pid}-${index}`, join(folder, `${index}.qcow2`), options.image),
      );
    say(`virt-install: ${Math.round(quantile(times, 0.5))} ms until it runs`);
    return {
      to_running_p50_ms: Math.round(quantile(times, 0.5)),
      to_running_p95_ms: Math.round(quantile(times, 0.95)),
    };
  } catch (error) {
    // What was measured of ours is not lost by it.
    return { failed: describeError(error).slice(0, 500) };
  } finally {
    for (const daemon of daemons.toReversed()) await stop(daemon);
    await rm(folder, { recursive: true, force: true });
  }
}

async function installOnce(name: string, disk: string, image: string): Promise<number> {
  const startedMs = systemClock.monotonicMs();
  await run("qemu-img", ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, disk, "2G"]);
  const machine = ["--virt-type", "qemu", "--memory", "512", "--vcpus", "1", "--import"];
  const devices = ["--disk", `path=${disk},format=qcow2,bus=virtio`, "--network", "none", "--graphics", "none"];
  const rest = ["--noautoconsole", "--osinfo", "detect=off,require=off"];
  const argv = [...CONNECT, "--name", name, ...machine, ...devices, ...rest];
  await run("virt-install", argv, { timeout: INSTALL_TIMEOUT_MS });
  const tookMs = systemClock.monotonicMs() - startedMs;
  await run("virsh", [...CONNECT, "destroy", name]);
  await run("virsh", [...CONNECT, "undefine", name]);
  return tookMs;
}

async function answers(): Promise<boolean> {
  return await run("virsh", [...CONNECT, "version"]).then(
    () => true,
    () => false,
  );
}

async function stop(daemon: ChildProcess): Promise<void> {
  if (daemon.exitCode !== null) return;
  const ended = new Promise((resolve) => daemon.once("exit", resolve));
  daemon.kill("SIGTERM");
  const patience = systemClock.sleep(5000, never).then(() => daemon.kill("SIGKILL"));
  await Promise.race([ended, patience]);
}
