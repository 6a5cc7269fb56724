import { chmod, chown, link, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { waitFor } from "../../../../test/support/wait-for.ts";
import { accounts } from "../../reconcile/sources/accounts.ts";
import { exists } from "../../host/exists.ts";
import type { SliceDriver } from "../../ports/slice-driver.ts";
import { makeContext, never } from "../testing.ts";
import { readAccounts } from "./account-files.ts";
import { build, canMakeAccounts, makeBareMetal, removeAll, type TestBareMetal } from "./test-host.ts";
import { processesOf } from "./tenant-processes.ts";

const isUsable = canMakeAccounts();
let host: TestBareMetal;
beforeAll(async () => {
  if (isUsable) host = await makeBareMetal();
});
afterAll(async () => {
  if (isUsable) await host.remove();
});

const OBJECTS = ["disk", "seed", "network", "machine"] as const;
const KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB6b0 tenant@example";

/** A slice that is taken down at the end of the test whatever becomes of it. */
async function built(overrides: Partial<SliceSpec> = {}): Promise<{ driver: SliceDriver; spec: SliceSpec }> {
  const driver = host.makeDriver();
  const spec = host.makeSpec(overrides);
  onTestFinished(async () => await removeAll(driver, spec));
  await build(driver, spec);
  return { driver, spec };
}

async function expectNothingLeft(driver: SliceDriver, spec: SliceSpec): Promise<void> {
  for (const object of OBJECTS) expect([object, await driver[object].inspect(spec, never)]).toEqual([object, "absent"]);
  expect(await host.leftovers(spec)).toEqual([]);
  expect(await driver.listSlices(never)).toEqual([]);
}

test.skipIf(!isUsable)(
  "a tenant gets an account with its keys and a shell in the terminal, and nothing of it is left",
  async () => {
    const before = await readFile("/etc/passwd", "utf8");
    const { driver, spec } = await built({ sshPublicKeys: [KEY] });
    expect(await driver.capability(never)).toMatchObject({ usable: true, accelerator: "none", access: "root" });
    const { user, uid, home, sudoers } = host.tenantOf(spec);
    expect(await driver.machine.waitReady(spec, makeContext())).toEqual({ user, access: "user" });
    for (const object of OBJECTS)
      expect([object, await driver[object].inspect(spec, never)]).toEqual([object, "present"]);
    expect(await driver.survey(spec, never)).toEqual({ machine: "running", hasDisk: true });
    expect(await driver.listSlices(never)).toEqual([{ allocationId: spec.allocationId, generation: 1 }]);
    const slice = { allocationId: spec.allocationId, generation: 1 };
    expect(await accounts(host.places.etcDir).list(never)).toEqual([
      { kind: "account", name: user, owner: user.slice("hostler-".length), slice, fault: null, gpuUuid: null },
    ]);
    expect(await readFile(join(home, ".ssh/authorized_keys"), "utf8")).toBe(`${KEY}\n`);
    expect(await exists(sudoers)).toBe(false);

    const lines = ["id -u; id -un; pwd; umask 077", `cat ${host.places.stateDir}/slices/*/owner.json`, "exit 7"];
    const { code, text } = await host.inTerminal(driver, spec, lines.join("\n"));
    expect(code).toBe(7);
    expect(text).toContain([uid, user, home].join("\n"));
    // Where the agent keeps its books is none of a tenant's business.
    expect(text).toContain("Permission denied");

    await removeAll(driver, spec);
    await expectNothingLeft(driver, spec);
    expect(await readFile("/etc/passwd", "utf8")).toBe(before);
  },
  60_000,
);

test.skipIf(!isUsable)(
  "every step made twice, by a later grant, changes nothing for the tenant; an earlier grant is refused",
  async () => {
    const { driver, spec } = await built();
    const { home } = host.tenantOf(spec);
    await host.inTerminal(driver, spec, "echo mine >notes; ln -sf /root/.ssh .hostler; rm -rf .ssh; ln -s /root .ssh");
    await build(driver, spec, { fence: "2" });
    expect(await readFile(join(home, "notes"), "utf8")).toBe("mine\n");
    await expect(driver.machine.create(spec, makeContext({ fence: "1" }))).rejects.toMatchObject({
      code: "lease_stale",
    });
    await removeAll(driver, spec);
    await removeAll(driver, spec);
    await expectNothingLeft(driver, spec);
  },
  60_000,
);

test.skipIf(!isUsable)(
  "processes that fight are ended: forks of forks, sessions of their own, signals ignored, a loop of forks",
  async () => {
    const { driver, spec } = await built();
    const { uid } = host.tenantOf(spec);
    const fighters = [
      "trap '' TERM HUP INT; (setsid sh -c 'trap \"\" TERM HUP; while :; do sleep 1; done' &) &",
      "(setsid setsid sleep 1000 &) &",
      "setsid sh -c 'while :; do sh -c \"sleep 0.05\" & sleep 0.01; done' >/dev/null 2>&1 &",
      // It looks for whoever comes to kill, and kills first.
      'setsid sh -c \'trap "" TERM HUP; while :; do for p in /proc/[0-9]*; do read -r n <$p/comm 2>/dev/null && [ "$n" = kill ] && kill -9 ${p#/proc/}; done; done\' >/dev/null 2>&1 &',
    ];
    await host.inTerminal(driver, spec, fighters.join("\n"));
    await waitFor("all fighters", async () => (await processesOf(uid)).length >= 5, { timeoutMs: 30_000 });
    expect(await driver.machine.powerDown(spec, { timeoutMs: 300, signal: never })).toBe(false);
    await driver.machine.remove(spec, never);
    expect(await processesOf(uid)).toEqual([]);
    await removeAll(driver, spec);
    await expectNothingLeft(driver, spec);
  },
  90_000,
);

test.skipIf(!isUsable)(
  "what a tenant leaves elsewhere is found and erased, and the receipt says where was looked; what is not the tenant's stays",
  async () => {
    const { driver, spec } = await built();
    const { home, uid } = host.tenantOf(spec);
    const foreign = join(host.places.stateDir, "foreign");
    await writeFile(foreign, "not the tenant's");
    const lines = [
      `cd ${host.sharedDir}; mkdir -p left/deep; echo secret >left/deep/file; chmod 000 left/deep/file; cd`,
      `echo secret >/dev/shm/left-$$; ln -s /etc/passwd ${host.sharedDir}/link; mkfifo ${host.sharedDir}/pipe`,
      "head -c 300000 /dev/urandom >big; mkdir 'a b'; echo x >'a b/c\nd'; ln -s / root; ipcmk --shmem 4096 --semaphore 1 --queue",
    ];
    const { text } = await host.inTerminal(driver, spec, lines.join("\n"));
    expect(text).toMatch(/Shared memory id: \d+/);
    // As a host without protected_hardlinks would let the tenant do it.
    await link(foreign, join(home, "linked"));
    expect((await host.leftovers(spec)).length).toBeGreaterThan(8);

    await expect(driver.disk.erase(spec, never)).resolves.toMatchObject({
      method: expect.stringContaining("overwrite") as string,
    });
    await driver.machine.remove(spec, never);
    const fresh = host.makeDriver();
    const erasure = await fresh.disk.erase(spec, never);
    expect(erasure.readBack).toContain(`no file of number ${uid} is left on ${host.fileSystems.join(", ")}`);
    await removeAll(driver, spec);
    await expectNothingLeft(driver, spec);
    expect(await readFile(foreign, "utf8")).toBe("not the tenant's");
    expect((await stat("/etc/passwd")).size).toBeGreaterThan(0);
  },
  60_000,
);

test.skipIf(!isUsable)(
  "root is given only where the operator agreed and the tenant asked, and then files elsewhere prove nothing",
  async () => {
    const labels = { "hostler.dev/host-access": "root" };
    const careful = host.makeDriver({ consent: "user" });
    await expect(careful.preflight(host.makeSpec({ labels }), never)).rejects.toMatchObject({
      code: "driver_unavailable",
    });
    const { driver, spec } = await built({ labels });
    const { sudoers, user } = host.tenantOf(spec);
    expect(await readFile(sudoers, "utf8")).toBe(`${user} ALL=(ALL:ALL) NOPASSWD: ALL\n`);
    expect((await stat(sudoers)).mode % 0o1000).toBe(0o440);
    expect(await driver.preflight(spec, never)).toEqual({ access: "root" });
    expect((await host.inTerminal(driver, spec, "sudo -n id -u")).text).toBe("0\n");
    await driver.machine.remove(spec, never);
    expect(await exists(sudoers)).toBe(false);
    expect((await driver.disk.erase(spec, never)).readBack).toContain("unproven: everything else");
    await removeAll(driver, spec);
    await expectNothingLeft(driver, spec);
  },
  60_000,
);

test.skipIf(!isUsable)(
  "a tenant's script runs once, as the tenant; other user data, a limit of bandwidth and a host that is not empty are refused",
  async () => {
    const userData = "#!/bin/sh\nid -u >>ran; trap '' TERM HUP; sleep 1000\n";
    const { driver, spec } = await built({ userData });
    const { home, uid } = host.tenantOf(spec);
    const ran = async (): Promise<string> => await readFile(join(home, "ran"), "utf8").catch(() => "");
    await waitFor("the script", async () => (await ran()) !== "", { timeoutMs: 30_000 });
    await driver.machine.remove(spec, never);
    await build(driver, spec, { fence: "2" });
    await driver.machine.waitReady(spec, makeContext({ fence: "2" }));
    expect(await ran()).toBe(`${uid}\n`);
    expect(await processesOf(uid)).toEqual([]);

    for (const [overrides, code] of [
      [{ userData: "#cloud-config\n" }, "task_rejected"],
      [{ bandwidthMbitPerSecond: 10 }, "task_rejected"],
      [{}, "capacity_unavailable"],
    ] as const)
      await expect(driver.preflight(host.makeSpec(overrides), never)).rejects.toMatchObject({ code });
    await removeAll(driver, spec);
    const other = host.makeDriver({ otherSlices: async () => [{ allocationId: "alc_other", generation: 1 }] });
    await expect(other.preflight(host.makeSpec(), never)).rejects.toMatchObject({ code: "capacity_unavailable" });
    await expectNothingLeft(driver, spec);
  },
  60_000,
);

test.skipIf(!isUsable)(
  "the account joins the groups that open its GPUs, and a node that only root opens is refused in words",
  async () => {
    const { driver, spec } = await built();
    const { user } = host.tenantOf(spec);
    const folder = join(host.places.homesDir, "..");
    const node = join(folder, "gpu-node");
    await writeFile(node, "");
    await chmod(node, 0o660);
    const facts = { bind: { deviceNodes: [node, "/dev/null"] } };
    await expect(driver.machine.create(spec, makeContext({ facts }))).rejects.toMatchObject({
      code: "driver_unavailable",
    });
    const groups = await readFile(join(host.places.etcDir, "group"), "utf8");
    const video = Number(/^video:x:(\d+):/m.exec(groups)?.[1]);
    await chown(node, 0, video);
    await driver.machine.create(spec, makeContext({ facts }));
    const { text } = await host.inTerminal(driver, spec, `id -Gn; [ -r ${node} ] && [ -w ${node} ] && echo open`);
    expect(text).toContain(`${user} video\nopen`);
    expect(await driver.machine.waitReady(spec, makeContext({ facts }))).toMatchObject({
      devices: [node, "/dev/null"],
      devicesInGuest: "seen",
    });
    await chmod(node, 0o600);
    await expect(driver.machine.waitReady(spec, makeContext({ facts }))).rejects.toMatchObject({
      code: "gpu_unavailable",
      detail: expect.stringContaining(`cannot open ${node}.`),
    });
    await removeAll(driver, spec);
    await expectNothingLeft(driver, spec);
    expect(await readFile(join(host.places.etcDir, "group"), "utf8")).not.toContain(user);
  },
  60_000,
);

test.skipIf(!isUsable)("an account that somebody else made is not taken over, and not removed", async () => {
  const driver = host.makeDriver();
  const spec = host.makeSpec();
  const { user, uid } = host.tenantOf(spec);
  const options = { timeoutMs: 30_000, signal: never };
  await host.commands.run(["useradd", "--no-create-home", "--uid", String(uid), "--user-group", "somebody"], options);
  onTestFinished(async () => void (await host.commands.run(["userdel", "somebody"], options)));
  await expect(driver.machine.create(spec, makeContext())).rejects.toMatchObject({
    code: "conflict",
    message: expect.stringContaining("somebody") as string,
  });
  await removeAll(driver, spec);
  const accounts = await readAccounts(host.places.etcDir);
  expect(accounts.some(({ name }) => name === "somebody")).toBe(true);
  expect(accounts.some(({ name }) => name === user)).toBe(false);
});
