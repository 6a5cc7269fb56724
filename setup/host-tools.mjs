import { spawnSync } from "node:child_process";
import { accessSync, constants, existsSync, readFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { SYSTEM_FOLDERS } from "./toolchain.mjs";

/**
 * Programs of the host that the project uses, one row each: the Debian package, a program (or the path of a file) that proves it is
 * there, what is off without it, and which commands want it.
 */
export const HOST_TOOLS = [
  {
    package: "qemu-system-x86",
    program: "qemu-system-x86_64",
    off: "virtual machines",
    for: ["demo", "test", "chaos", "bench"],
  },
  {
    package: "qemu-utils",
    program: "qemu-img",
    off: "virtual machines, building the guest image",
    for: ["demo", "test", "chaos", "bench"],
  },
  { package: "genisoimage", program: "genisoimage", off: "virtual machines", for: ["demo", "test", "chaos", "bench"] },
  { package: "openssh-client", program: "ssh", off: "virtual machines", for: ["demo", "test", "chaos", "bench"] },
  { package: "socat", program: "socat", off: "virtual machines", for: ["demo", "test", "chaos", "bench"] },
  { package: "iproute2", program: "ip", off: "tap networks", for: ["demo", "test", "chaos", "bench"] },
  { package: "nftables", program: "nft", off: "tap networks", for: ["demo", "test", "chaos", "bench"] },
  { package: "util-linux", program: "taskset", off: "CPUs of their own for machines", for: ["test"] },
  { package: "procps", program: "kill", off: "bare metal", for: ["test"] },
  { package: "sudo", program: "sudo", off: "bare metal with root", for: ["test"] },
  { package: "swtpm", program: "swtpm", off: "machines with a TPM", for: ["test"] },
  { package: "ovmf", program: "/usr/share/OVMF/OVMF_CODE_4M.fd", off: "machines with UEFI", for: ["test"] },
  {
    package: "systemd-container",
    program: "systemd-nspawn",
    off: "containers",
    for: ["demo", "test", "chaos", "bench"],
  },
  { package: "busybox-static", program: "busybox", off: "containers", for: ["demo", "test", "chaos", "bench"] },
  {
    package: "e2fsprogs",
    program: "mke2fs",
    off: "containers, building the guest image",
    for: ["demo", "test", "chaos", "bench"],
  },
  { package: "openssl", program: "openssl", off: "the tests of certificates", for: ["test"] },
  { package: "gnutls-bin", program: "certtool", off: "the tests of certificates", for: ["test"] },
  { package: "nats-server", program: "nats-server", off: "the tests of the NATS sink", for: ["test", "bench"] },
  {
    package: "virtinst",
    program: "virt-install",
    off: "virt-install beside us in the benchmark of provisioning",
    for: ["bench"],
  },
  {
    package: "libvirt-daemon-system",
    program: "libvirtd",
    off: "virt-install beside us in the benchmark of provisioning",
    for: ["bench"],
  },
  { package: "lvm2", program: "lvcreate", off: "disks on volumes in chaos vfio", for: ["chaos"] },
  { package: "thin-provisioning-tools", program: "thin_check", off: "disks on volumes in chaos vfio", for: ["chaos"] },
  { package: "dbus-daemon", program: "dbus-daemon", off: "the agent under systemd in chaos vfio", for: ["chaos"] },
  { package: "chromium", program: "chromium", off: "the tests of the console", for: ["test"] },
];

/** The rows that a command wants and this host lacks. */
export function missingTools(command, isInstalled = hasProgram) {
  return HOST_TOOLS.filter((tool) => tool.for.includes(command) && !isInstalled(tool.program));
}

/** What somebody who is not root is told: what is missing, the command that installs it, what is off until then. */
export function missingMessage(missing) {
  const packages = missing.map((tool) => tool.package).join(" ");
  const off = [...new Set(missing.map((tool) => tool.off))].join("; ");
  return `missing on this host: ${packages}\n  install with: sudo apt-get install --no-install-recommends ${packages}\n  off until then: ${off}`;
}

/** Installs what is missing as root on Debian or Ubuntu, says what is missing elsewhere. Never stops the command. */
export function ensureHostTools(command, say) {
  const missing = missingTools(command);
  if (missing.length === 0) return;
  if (process.env.HOSTLER_SKIP_HOST_TOOLS === "1" || process.getuid?.() !== 0 || !isDebian())
    return say(missingMessage(missing));
  const packages = missing.map((tool) => tool.package);
  say(`installing from Debian: ${packages.join(" ")}`);
  const environment = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  const install = () =>
    spawnSync("apt-get", ["install", "-y", "-q", "--no-install-recommends", ...packages], {
      env: environment,
      stdio: ["ignore", "pipe", "pipe"],
      encoding: "utf8",
    });
  let result = install();
  if (result.status !== 0) {
    // A machine that never fetched package lists, or whose lists are old, finds nothing.
    spawnSync("apt-get", ["update", "-q"], { env: environment, stdio: "ignore" });
    result = install();
  }
  if (result.status !== 0)
    say(`apt-get failed: ${result.stderr.trim().split("\n").slice(-3).join(" ")}\n${missingMessage(missing)}`);
}

function hasProgram(name) {
  if (name.startsWith("/")) return existsSync(name);
  return [...(process.env.PATH ?? "").split(delimiter), ...SYSTEM_FOLDERS].some((folder) => {
    try {
      accessSync(join(folder, name), constants.X_OK);
      return folder !== "";
    } catch {
      return false;
    }
  });
}

function isDebian() {
  const path = "/etc/os-release";
  return existsSync(path) && /^ID(?:_LIKE)?=.*\b(?:debian|ubuntu)\b/m.test(readFileSync(path, "utf8"));
}
