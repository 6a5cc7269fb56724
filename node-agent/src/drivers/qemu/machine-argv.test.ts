import { expect, test } from "vitest";
import { isNameOf, machineArgv, parseMachineName } from "./machine-argv.ts";
import { slicePaths } from "../slices/slice-paths.ts";
import { sshArgv } from "./terminal-command.ts";
import { makeSpec } from "../testing.ts";

const places = { stateDir: "/var/lib/hostler-agent", runDir: "/run/hostler-agent" };
const spec = makeSpec({ vcpus: 4, memoryMib: 2048 });
const paths = slicePaths(places, spec);
const argv = machineArgv(spec, paths, { accelerator: "kvm", network: "tap", fence: "9" });

test("a machine starts paused, without defaults, in a sandbox, under its slice's name", () => {
  expect(argv.slice(0, 3)).toEqual(["qemu-system-x86_64", "-name", `guest=${spec.allocationId}.1.9,debug-threads=on`]);
  expect(argv).toEqual(expect.arrayContaining(["-nodefaults", "-no-user-config", "-S", "-sandbox"]));
  expect(argv.join(" ")).toContain("-smp 4 -m 2048M");
  expect(argv.join(" ")).toContain("-accel kvm -cpu host");
});

test("no machine listens on a network socket of the host that nobody asked for", () => {
  const user = machineArgv(spec, paths, { accelerator: "tcg", network: "user", fence: "9" });
  for (const text of [...argv, ...user]) expect(text).not.toMatch(/hostfwd|tcp:|udp:|telnet:|vnc|spice|websocket/);
  expect(user).toContain("user,id=net0,restrict=on");
  expect(argv).toContain(`tap,id=net0,ifname=ht${paths.name},script=no,downscript=no`);
});

test("in user mode QEMU listens for the ports that the slice asked for; on a tap the host's rules lead there", () => {
  const forwards = [
    { protocol: "tcp", port: 80, hostPort: 30_080 },
    { protocol: "udp", port: 53, hostPort: 30_053 },
  ] as const;
  const [user, tap] = (["user", "tap"] as const).map((network) =>
    machineArgv(spec, paths, { accelerator: "tcg", network, forwards, fence: "9" }).join(" "),
  );
  expect(user).toContain("-netdev user,id=net0,restrict=on,hostfwd=tcp::30080-:80,hostfwd=udp::30053-:53 ");
  expect(tap).not.toContain("hostfwd");
});

test("the seed is attached read-only and the disk by the format that was verified", () => {
  const nodes = argv.filter((_, index) => argv[index - 1] === "-blockdev").map((text) => JSON.parse(text) as unknown);
  expect(nodes).toMatchObject([
    { driver: "qcow2", file: { filename: paths.disk } },
    { driver: "raw", "read-only": true, file: { filename: paths.seed } },
  ]);
});

test("the key of an encrypted disk is a file that QEMU reads, never a word of the command line", () => {
  const encrypted = machineArgv(spec, paths, {
    accelerator: "kvm",
    network: "tap",
    fence: "9",
    diskKey: paths.diskKey,
  });
  const objectOf = (flag: string): unknown => JSON.parse(encrypted[encrypted.indexOf(flag) + 1] ?? "");
  expect(objectOf("-object")).toEqual({ "qom-type": "secret", id: "disk-key", file: paths.diskKey });
  expect(objectOf("-blockdev")).toMatchObject({
    file: { filename: paths.disk },
    encrypt: { format: "luks", "key-secret": "disk-key" },
  });
  expect(argv.join(" ")).not.toContain("secret");
});

test("a machine is known by its name, whichever grant made it, and by nothing less", () => {
  expect(parseMachineName(argv.join("\0"))).toEqual({ allocationId: spec.allocationId, generation: 1 });
  expect(parseMachineName("qemu-system-x86_64\0-name\0guest=somebody-else")).toBe(null);
  expect(isNameOf(`${spec.allocationId}.1.9`, spec)).toBe(true);
  expect(isNameOf(`${spec.allocationId}.10.9`, spec)).toBe(false);
});

test("folders that sockets or QEMU's options cannot take are refused", () => {
  expect(() => slicePaths({ ...places, runDir: `/run/${"x".repeat(90)}` }, spec)).toThrow("too long");
  expect(() => slicePaths({ ...places, stateDir: "/var/a,b" }, spec)).toThrow("comma");
});

test("nothing that a shell reads can be in the path that ssh hands to one", () => {
  expect(sshArgv("/k", "/run/a/ssh0.sock")).toContain("ProxyCommand=socat - UNIX-CONNECT:/run/a/ssh0.sock");
  for (const path of ["/run/a b", "/run/$(x)", "/run/a;b", "/run/a'b", "/run/%h", "/run/a,b"])
    expect(() => sshArgv("/k", path)).toThrow("shell");
});
