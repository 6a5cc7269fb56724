import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, cp, mkdir, readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { systemClock } from "@hostler/shared/clock.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import { makeDetachedSupervisor } from "../../host/detached-supervisor.ts";
import { exists } from "../../host/exists.ts";
import { OWN_SCOPE } from "../../host/host-scope.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { ProcessSupervisor } from "../../ports/process-supervisor.ts";
import type { CreateContext, SliceDriver } from "../../ports/slice-driver.ts";
import { commands, isRoot, makeContext, makePlaces, makeSpec, never } from "../testing.ts";
import { readAccounts, readGroups } from "./account-files.ts";
import { makeHostDriver, type HostDriverDeps } from "./host-driver.ts";
import { filesOf } from "./local-files.ts";
import { tenantOf, type HostPlaces, type Tenant } from "./tenant-account.ts";
import { endProcesses, processesOf } from "./tenant-processes.ts";

export const STEPS = ["image", "disk", "seed", "network", "machine"] as const;

/**
 * A host with an `/etc` of its own, in a mount name space that only programs of the test are in: accounts are real, and none of them
 * is ever in the files of the machine. Homes, processes and shared memory are the machine's.
 */
export interface TestBareMetal {
  readonly places: HostPlaces;
  /** A folder that everybody may write, outside of homes. */
  readonly sharedDir: string;
  /** Where tenants of tests may write; the whole machine would be looked through for each test otherwise. */
  readonly fileSystems: readonly string[];
  readonly commands: HostCommands;
  readonly supervisor: ProcessSupervisor;
  makeDriver(overrides?: Partial<HostDriverDeps>): SliceDriver;
  makeSpec(overrides?: Partial<SliceSpec>): SliceSpec;
  tenantOf(spec: SliceSpec): Tenant;
  /** Runs lines in a login shell of the tenant, by the way of the web terminal. */
  inTerminal(driver: SliceDriver, spec: SliceSpec, lines: string): Promise<{ code: number; text: string }>;
  /** Everything of the slice that is still there. */
  leftovers(spec: SliceSpec): Promise<string[]>;
  remove(): Promise<void>;
}

export function canMakeAccounts(): boolean {
  if (!isRoot) process.stderr.write("skipped: accounts are not made here (not root)\n");
  return isRoot;
}

export async function makeBareMetal(): Promise<TestBareMetal> {
  const { base, places, sharedDir, fileSystems } = await makeFolders();
  const { enter, close } = await openNameSpace(places.etcDir);
  const inside: HostCommands = {
    run: async (argv, options) => await commands.run([...enter, ...argv], options),
  };
  const detached = makeDetachedSupervisor({ clock: systemClock, stateDir: base.stateDir });
  const supervisor: ProcessSupervisor = {
    ...detached,
    start: async (name, argv, options) => await detached.start(name, [...enter, ...argv], options),
  };
  const specs: SliceSpec[] = [];
  return {
    places,
    sharedDir,
    fileSystems,
    commands: inside,
    supervisor,
    makeDriver: (overrides = {}) =>
      makeHostDriver({
        ...{ places, commands: inside, supervisor, clock: systemClock, scope: OWN_SCOPE, hasSystemd: false },
        ...{ consent: "root", portAddress: "203.0.113.5", otherSlices: async () => [] },
        fileSystems: async () => fileSystems,
        // The set-up of tests does not install what only tenants run.
        find: async (name) => (name === "sshd" ? null : `/usr/bin/${name}`),
        ...overrides,
      }),
    makeSpec: (overrides = {}) => {
      const spec = makeSpec({ driver: "host", hostName: "whole-host", ...overrides });
      specs.push(spec);
      return spec;
    },
    tenantOf: (spec) => tenantOf(places, spec),
    inTerminal: async (driver, spec, lines) => {
      const { argv, env } = await driver.machine.terminalCommand(spec);
      const shell = spawn(enter[0], [...enter.slice(1), ...argv], { env, stdio: ["pipe", "pipe", "pipe"] });
      let text = "";
      for (const stream of [shell.stdout, shell.stderr]) stream.on("data", (part: Buffer) => (text += String(part)));
      shell.stdin.end(`${lines}\n`);
      // Not `close`: what the shell left running may hold its pipes.
      const [code] = (await once(shell, "exit")) as [number];
      return { code, text };
    },
    leftovers: async (spec) => await leftoversOf(places, fileSystems, spec),
    remove: async () => {
      for (const spec of specs)
        await endProcesses({ commands: inside, clock: systemClock }, tenantOf(places, spec).uid, never);
      close();
      await base.remove();
    },
  };
}

async function makeFolders() {
  const base = await makePlaces();
  const folder = dirname(base.stateDir);
  const [etcDir, homesDir, sharedDir] = ["etc", "homes", "shared"].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ];
  await cp("/etc", etcDir, { recursive: true, verbatimSymlinks: true });
  for (const path of [join(etcDir, "sudoers.d"), homesDir, sharedDir]) await mkdir(path, { recursive: true });
  // The tenant passes through to its home.
  for (const path of [folder, homesDir, etcDir]) await chmod(path, 0o755);
  await chmod(sharedDir, 0o1777);
  const places = { stateDir: join(base.stateDir, "hosts"), runDir: base.runDir, etcDir, homesDir };
  return { base, places, sharedDir, fileSystems: [folder, "/dev/shm"] };
}

/** A process that keeps a mount name space in which `/etc` is that folder. */
async function openNameSpace(etcDir: string) {
  const script = 'mount --bind "$0" /etc && echo ready && exec sleep infinity';
  const argv = ["--mount", "--propagation", "private", "sh", "-c", script, etcDir];
  const holder = spawn("unshare", argv, { stdio: ["ignore", "pipe", "inherit"] });
  await once(holder.stdout, "data");
  const enter: [string, ...string[]] = ["nsenter", `--mount=/proc/${holder.pid}/ns/mnt`, "--"];
  return { enter, close: () => holder.kill("SIGKILL") };
}

async function leftoversOf(places: HostPlaces, fileSystems: readonly string[], spec: SliceSpec): Promise<string[]> {
  const tenant = tenantOf(places, spec);
  const { uid, user } = tenant;
  const paths = [tenant.folder, tenant.home, tenant.homeDraft, tenant.sudoers, `${tenant.sudoers}.new`];
  const there = await Promise.all(paths.map(async (path) => ((await exists(path)) ? [path] : [])));
  const accounts = (await readAccounts(places.etcDir)).filter((one) => one.uid === uid || one.name === user);
  const groups = (await readGroups(places.etcDir)).filter((one) => one.gid === uid || one.name === user);
  const files = await filesOf(commands, { uid, places: fileSystems }, never);
  const ipc = await Promise.all(
    ["shm", "sem", "msg"].map(async (table) => await readFile(`/proc/sysvipc/${table}`, "latin1")),
  );
  return [
    ...there.flat(),
    ...accounts.map(({ name }) => `account ${name}`),
    ...groups.map(({ name }) => `group ${name}`),
    ...(await processesOf(uid)).map((pid) => `process ${pid}`),
    ...files.paths,
    ...ipc.flatMap((text) => text.split("\n").filter((line) => line.split(/\s+/).includes(String(uid)))),
  ];
}

/** Makes everything up to an account that can log in. */
export async function build(driver: SliceDriver, spec: SliceSpec, context: Partial<CreateContext> = {}): Promise<void> {
  await driver.preflight(spec, never);
  for (const step of STEPS) await driver[step].create(spec, makeContext(context));
}

/** In the order of a release. */
export async function removeAll(driver: SliceDriver, spec: SliceSpec): Promise<void> {
  for (const object of [driver.machine, driver.disk, driver.network, driver.seed]) await object.remove(spec, never);
}
