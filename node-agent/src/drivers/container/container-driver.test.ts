import { access, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { waitFor } from "../../../../test/support/wait-for.ts";
import type { SliceDriver } from "../../ports/slice-driver.ts";
import { makeContext, never } from "../testing.ts";
import { firstIdOf, IDS_PER_SLICE } from "./container-paths.ts";
import { build, canRunContainers, inGuest, makeContainerHost, type ContainerHost } from "./test-host.ts";

const isUsable = await canRunContainers();
let host: ContainerHost;
beforeAll(async () => {
  if (isUsable) host = await makeContainerHost();
});
afterAll(async () => {
  if (isUsable) await host.remove();
});

async function removeAll(driver: SliceDriver, spec: SliceSpec): Promise<void> {
  for (const object of [driver.machine, driver.disk, driver.network, driver.seed]) {
    await object.remove(spec, never);
    expect(await object.inspect(spec, never)).toBe("absent");
  }
}

/** Numbers of capabilities: linux/capability.h. */
const [SYS_MODULE, MKNOD, AUDIT_CONTROL] = [16n, 27n, 30n];

const isThere = async (path: string): Promise<boolean> =>
  await access(path).then(
    () => true,
    () => false,
  );

test.skipIf(!isUsable)(
  "a container is built, proves itself, gives a terminal with exit codes, shuts down and leaves nothing",
  async () => {
    const driver = host.makeDriver();
    expect(await driver.capability(never)).toMatchObject({ usable: true, accelerator: "none" });
    const spec = host.makeSpec();
    const timings = await build(driver, spec);
    const ready = await driver.machine.waitReady(spec, makeContext());
    process.stderr.write(`${JSON.stringify({ ...timings, ...ready })}\n`);
    for (const step of ["disk", "seed", "network", "machine"] as const)
      expect([step, await driver[step].inspect(spec, never)]).toEqual([step, "present"]);
    expect(await driver.survey(spec, never)).toEqual({ machine: "running", hasDisk: true });
    expect(await driver.listSlices(never)).toContainEqual({ allocationId: spec.allocationId, generation: 1 });

    const answer = await inGuest(driver, spec, "id; hostname; pwd; echo $HOME $TERM; exit 7");
    expect(answer.code).toBe(7);
    expect(answer.text.split("\n").slice(0, 4)).toEqual([
      "uid=0(root) gid=0(root)",
      "tiny-guest",
      "/root",
      "/root xterm-256color",
    ]);

    expect(await driver.machine.powerDown(spec, { timeoutMs: 20_000, signal: never })).toBe(true);
    expect(await driver.survey(spec, never)).toEqual({ machine: "none", hasDisk: true });
    await removeAll(driver, spec);
    expect(await host.leftovers(spec)).toEqual([]);
    expect(await driver.listSlices(never)).toEqual([]);
  },
  60_000,
);

test.skipIf(!isUsable)(
  "what runs in a container is nobody on the host, without new privileges, behind a filter, and sees nothing of the host",
  async () => {
    const driver = host.makeDriver();
    const spec = host.makeSpec();
    await build(driver, spec);
    await driver.machine.waitReady(spec, makeContext());
    const leader = await host.leaderOf(spec);
    const status = await readFile(`/proc/${leader}/status`, "utf8");
    const first = Number(/^Uid:\t(\d+)/m.exec(status)?.[1]);
    expect(first).toBeGreaterThanOrEqual(firstIdOf({ index: 0 }));
    expect((first - firstIdOf({ index: 0 })) % IDS_PER_SLICE).toBe(0);
    expect(status).toMatch(/^NoNewPrivs:\t1$/m);
    expect(status).toMatch(/^Seccomp:\t2$/m);
    const bounding = BigInt(`0x${/^CapBnd:\t([0-9a-f]+)$/m.exec(status)?.[1]}`);
    for (const dropped of [MKNOD, SYS_MODULE, AUDIT_CONTROL]) expect(bounding & (1n << dropped)).toBe(0n);

    const seen = await inGuest(
      driver,
      spec,
      [
        "cat /proc/1/limits /proc/self/limits | grep 'Max processes'; ls /run/hostler/seed; echo x >/run/hostler/seed/init && echo wrote; grep NoNewPrivs /proc/self/status",
        "ps; ls /proc/1/fd/1 && echo x >/proc/1/fd/1; df -k / | head -2; mount -t ext4 /dev/loop0 /tmp && echo mounted",
        "grep -c . /proc/net/dev; echo b >/proc/sysrq-trigger && echo rebooted",
      ].join("\n"),
    );
    expect(seen.text).toMatch(/(?:Max processes +32768 +32768 .*\n){2}/);
    expect(seen.text).toContain("hostler.env");
    expect(seen.text).toContain("NoNewPrivs:\t1");
    for (const word of ["wrote", "mounted", "rebooted", "vitest", "vendor-data"]) expect(seen.text).not.toContain(word);
    // The console's file is closed when the tenant's first program runs: the ready line is the last of it.
    const { serialLog } = host.pathsOf(spec);
    expect((await readFile(serialLog, "utf8")).trim()).toMatch(/^HOSTLER-READY [0-9a-f]{32}$/);
    await removeAll(driver, spec);
    expect(await host.leftovers(spec)).toEqual([]);
  },
  60_000,
);

test.skipIf(!isUsable)(
  "device nodes and files that were given with a GPU are there and work, others are not",
  async () => {
    const driver = host.makeDriver();
    const spec = host.makeSpec({ gpuUuids: ["GPU-1"] });
    // Any device shows it: this one answers writes with "no space left", and a null device would not.
    const given = {
      deviceNodes: ["/dev/full"],
      files: [{ source: "/etc/debian_version", target: "/usr/lib/driver:1" }],
    };
    await build(driver, spec, "1", { bind: given });
    const ready = await driver.machine.waitReady(spec, makeContext({ facts: { bind: given } }));
    expect(ready).toMatchObject({ devices: ["/dev/full"], devicesInGuest: "seen" });
    // As one that was started before its init tried anything.
    const { serialLog } = host.pathsOf(spec);
    await writeFile(serialLog, (await readFile(serialLog, "utf8")).replace(/HOSTLER-SEES.*/, ""));
    const older = await driver.machine.waitReady(spec, makeContext({ facts: { bind: given } }));
    expect(older).toMatchObject({ devicesInGuest: "unproven" });
    const lines = ["echo x >/dev/full", "cat /usr/lib/driver:1", "echo x >/usr/lib/driver:1", "ls /dev/fuse /dev/kmsg"];
    const { text } = await inGuest(driver, spec, lines.join("\n"));
    expect(text).toContain("No space left on device");
    expect(text).toContain(await readFile("/etc/debian_version", "utf8"));
    expect(text).toContain("Read-only file system");
    expect(text).toContain("/dev/fuse: No such file");
    expect(text).toContain("/dev/kmsg: No such file");
    await removeAll(driver, spec);
    expect(await host.leftovers(spec)).toEqual([]);
  },
  60_000,
);

test.skipIf(!isUsable)(
  "a container that cannot open a node of its GPU is not handed over, and the message names the node",
  async () => {
    const driver = host.makeDriver();
    const spec = host.makeSpec({ gpuUuids: ["GPU-1"] });
    // A device that only root of the host itself may open.
    const folder = await mkdtemp("/var/tmp/hostler-node-");
    onTestFinished(async () => await rm(folder, { recursive: true, force: true }));
    const node = join(folder, "shut");
    await host.commands.run(["mknod", "--mode=0600", node, "c", "1", "7"], { timeoutMs: 5000, signal: never });
    const given = { gpuUuids: ["GPU-1"], deviceNodes: ["/dev/full", node] };
    await build(driver, spec, "1", { bind: given });
    await expect(driver.machine.waitReady(spec, makeContext({ facts: { bind: given } }))).rejects.toMatchObject({
      code: "gpu_unavailable",
      detail: expect.stringContaining(`cannot open ${node},`),
      facts: { gpuUuids: ["GPU-1"] },
    });
    await removeAll(driver, spec);
    expect(await host.leftovers(spec)).toEqual([]);
  },
  60_000,
);

test.skipIf(!isUsable)(
  "the disk has the size that was asked for, keeps what was written over a new container, and runs user data once",
  async () => {
    const driver = host.makeDriver();
    const spec = host.makeSpec({
      userData: "#!/bin/sh\necho once >>/root/count\n",
      sshPublicKeys: ["ssh-ed25519 AAAA me"],
    });
    await build(driver, spec);
    await driver.machine.waitReady(spec, makeContext());
    await waitFor("user data", async () => (await inGuest(driver, spec, "cat /root/count")).text.includes("once"));
    const full = await inGuest(
      driver,
      spec,
      "cat /root/.ssh/authorized_keys; dd if=/dev/zero of=/root/fill bs=1M count=16 && fallocate -l 1g /root/over",
    );
    expect(full.text).toContain("ssh-ed25519 AAAA me");
    expect(full.code).not.toBe(0);
    const { disk } = host.pathsOf(spec);
    expect((await stat(disk)).size).toBe(1024 ** 3);
    expect((await stat(disk)).blocks * 512).toBeLessThan(256 * 1024 ** 2);

    await driver.machine.remove(spec, never);
    await build(driver, spec, "2");
    await driver.machine.waitReady(spec, makeContext({ fence: "2" }));
    const again = await inGuest(driver, spec, "cat /root/count; ls -l /root/fill");
    expect(again.text.match(/once/g)).toHaveLength(1);
    expect(again.text).toContain("/root/fill");
    await removeAll(driver, spec);
    expect(await host.leftovers(spec)).toEqual([]);
  },
  60_000,
);

test.skipIf(!isUsable)(
  "a later grant and a restarted agent adopt the container; an earlier grant and another spec are refused",
  async () => {
    const spec = host.makeSpec();
    await build(host.makeDriver(), spec);
    const before = await host.processOf(spec);
    const restarted = host.makeDriver();
    await restarted.machine.create(spec, makeContext({ fence: "7" }));
    expect(await host.processOf(spec)).toBe(before);
    expect(await restarted.machine.inspect(spec, never)).toBe("present");
    await expect(restarted.machine.create(spec, makeContext({ fence: "6" }))).rejects.toMatchObject({
      code: "lease_stale",
    });
    await expect(restarted.machine.create({ ...spec, vcpus: 2 }, makeContext({ fence: "8" }))).rejects.toMatchObject({
      code: "journal_conflict",
    });
    expect((await inGuest(restarted, spec, "echo still here")).text).toContain("still here");
    await removeAll(restarted, spec);
    expect(await host.leftovers(spec)).toEqual([]);
  },
  60_000,
);

test.skipIf(!isUsable)(
  "a container whose first process is killed is seen to be gone, and can be made again",
  async () => {
    const driver = host.makeDriver();
    const spec = host.makeSpec();
    await build(driver, spec);
    await driver.machine.waitReady(spec, makeContext());
    process.kill(await host.leaderOf(spec), "SIGKILL");
    await waitFor("the end", async () => (await driver.survey(spec, never)).machine === "none");
    expect(await driver.machine.inspect(spec, never)).toBe("partial");
    await expect(driver.machine.terminalCommand(spec)).rejects.toMatchObject({ code: "terminal_unavailable" });
    await build(driver, spec, "2");
    expect(await driver.survey(spec, never)).toEqual({ machine: "running", hasDisk: true });
    await removeAll(driver, spec);
    expect(await host.leftovers(spec)).toEqual([]);
  },
  60_000,
);

test.skipIf(!isUsable)(
  "what a killed runtime leaves running is found by its ids and ended with the slice",
  async () => {
    const driver = host.makeDriver();
    const spec = host.makeSpec();
    await build(driver, spec);
    const leader = await host.leaderOf(spec);
    process.kill(await host.processOf(spec), "SIGKILL");
    await waitFor("the end", async () => (await driver.survey(spec, never)).machine === "none");
    expect(await isThere(`/proc/${leader}`)).toBe(true);
    await removeAll(driver, spec);
    await waitFor("the orphan's end", async () => !(await isThere(`/proc/${leader}`)));
    expect(await host.leftovers(spec)).toEqual([]);
  },
  60_000,
);

test.skipIf(!isUsable)(
  "a guest that ends before it is ready says so with its last words",
  async () => {
    const driver = host.makeDriver();
    const spec = host.makeSpec();
    for (const step of ["image", "disk", "seed", "network"] as const) await driver[step].create(spec, makeContext());
    await writeFile(join(host.pathsOf(spec).seed, "init"), "echo the guest gives up; exit 1\n");
    const failure = await driver.machine.create(spec, makeContext()).then(
      async () => await driver.machine.waitReady(spec, makeContext()).catch((error: unknown) => error),
      (error: unknown) => error,
    );
    expect(failure).toMatchObject({ code: "machine_exited", detail: expect.stringContaining("the guest gives up") });
    await removeAll(driver, spec);
    expect(await host.leftovers(spec)).toEqual([]);
  },
  60_000,
);

test.skipIf(!isUsable)(
  "ending a container leaves that of another agent alone, although both agents gave theirs the same ids",
  async () => {
    const [one, other] = [await makeContainerHost(), await makeContainerHost()];
    onTestFinished(async () => {
      await one.remove();
      await other.remove();
    });
    const [mine, theirs] = [one.makeSpec(), other.makeSpec()];
    await build(one.makeDriver(), mine);
    await build(other.makeDriver(), theirs);
    const idsOf = async (pid: number): Promise<string | undefined> =>
      /^Uid:\t(\d+)/m.exec(await readFile(`/proc/${pid}/status`, "utf8"))?.[1];
    expect(await idsOf(await one.leaderOf(mine))).toBe(await idsOf(await other.leaderOf(theirs)));
    const before = await other.leaderOf(theirs);
    process.kill(await one.processOf(mine), "SIGKILL");
    await removeAll(one.makeDriver(), mine);
    expect(await other.leaderOf(theirs)).toBe(before);
    await removeAll(other.makeDriver(), theirs);
    expect(await other.leftovers(theirs)).toEqual([]);
  },
  60_000,
);

test.skipIf(!isUsable)("what a container cannot be made from or with is refused before anything is made", async () => {
  const driver = host.makeDriver();
  const disk = host.makeSpec({ image: { ...host.makeSpec().image, format: "qcow2" } });
  await expect(driver.preflight(disk, never)).rejects.toMatchObject({
    detail: expect.stringContaining("it is a disk for virtual machines"),
  });
  const large = host.makeSpec({ image: { ...disk.image, format: "tar", sha256: "1".repeat(64), sizeBytes: 2 ** 33 } });
  const full = host.makeDriver({ diskFreeGib: async () => 20 });
  await expect(full.preflight(large, never)).rejects.toMatchObject({ code: "disk_full" });
  const bare = host.makeDriver({ find: async () => null });
  await expect(bare.preflight(host.makeSpec(), never)).rejects.toMatchObject({
    code: "driver_unavailable",
    detail: expect.stringContaining("apt-get install"),
  });
  for (const spec of [disk, large]) expect(await host.leftovers(spec)).toEqual([]);
});
