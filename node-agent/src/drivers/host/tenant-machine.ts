import { rm } from "node:fs/promises";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { hostAccessOf, type SliceSpec } from "@hostler/shared/tasks.ts";
import * as z from "zod";
import { exists } from "../../host/exists.ts";
import { prefixed, type HostScope } from "../../host/host-scope.ts";
import type { ProcessSupervisor } from "../../ports/process-supervisor.ts";
import type { CreateContext, Facts, Machine, SliceReference, TerminalCommand } from "../../ports/slice-driver.ts";
import { factsOfSeen } from "../slices/promised-devices.ts";
import { belongsToAnother, closeSliceFolder, openSliceFolder, replaceFile } from "../slices/slice-folder.ts";
import { SCRIPT } from "./home.ts";
import { tenantOf, type Tenant } from "./tenant-account.ts";
import { removeIpc } from "./tenant-ipc.ts";
import {
  closeDoor,
  findAccount,
  giveRoot,
  joinGroups,
  makeAccount,
  removeAccount,
  type LoginDeps,
} from "./tenant-login.ts";
import { askProcesses, endProcesses, processesOf } from "./tenant-processes.ts";

export interface MachineDeps extends LoginDeps {
  readonly supervisor: ProcessSupervisor;
  readonly clock: Clock;
  readonly scope: HostScope;
}

const grantSchema = z.object({ deviceNodes: z.array(z.string()) });
const LOGIN_TIMEOUT_MS = 30_000;
/** A process that began while its user's account went is ended in the next round. */
const ROUNDS_MAX = 5;
const ENVIRONMENT = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", TERM: "xterm-256color", LANG: "C.UTF-8" };

/**
 * There is no machine but the host itself. What is made is an account that can log in, and what is ended is all that runs as it:
 *
 *   nothing ── account, groups, root where it was asked for ── record ── the tenant may log in
 *   record gone ── nobody logs in any more ── no process ── no shared memory ── no account
 */
export function makeMachine(deps: MachineDeps): Machine {
  const inspect: Machine["inspect"] = async (slice) => {
    const tenant = tenantOf(deps.places, slice);
    const [account, isWhole] = await Promise.all([findAccount(deps.places, tenant, slice), exists(tenant.machine)]);
    if (account !== null && isWhole) return "present";
    if (account !== null || isWhole || (await exists(tenant.sudoers))) return "partial";
    return (await processesOf(tenant.uid)).length > 0 ? "partial" : "absent";
  };
  return {
    inspect,
    create: async (spec, context) => {
      const tenant = tenantOf(deps.places, spec);
      await openSliceFolder(tenant, spec, context);
      await makeLogin(deps, tenant, { spec, context });
      return { user: tenant.user, uid: tenant.uid, access: hostAccessOf(spec.labels) };
    },
    waitReady: async (spec, context) => await provesLogin(deps, spec, context),
    powerDown: async (slice, options) => await askProcesses(deps, tenantOf(deps.places, slice).uid, options),
    remove: async (slice, signal) => await removeLogin(deps, slice, signal),
    terminalCommand: async (slice) => {
      if ((await inspect(slice, new AbortController().signal)) !== "present")
        throw new AppError("terminal_unavailable", { detail: "The slice has no account on this host." });
      return terminalOf(deps.scope, tenantOf(deps.places, slice));
    },
  };
}

async function makeLogin(
  deps: MachineDeps,
  tenant: Tenant,
  { spec, context }: { readonly spec: SliceSpec; readonly context: CreateContext },
): Promise<void> {
  const { signal, fence } = context;
  if (!(await exists(tenant.machine)) && (await processesOf(tenant.uid)).length > 0)
    // What an interrupted start or an earlier tenant of the same number left.
    await endProcesses(deps, tenant.uid, signal);
  await makeAccount(deps, tenant, { slice: spec, fence, signal });
  await joinGroups(deps, { tenant, deviceNodes: givenNodes(context) }, signal);
  if (hostAccessOf(spec.labels) === "root") await giveRoot(tenant);
  if (spec.userData !== null && !(await exists(tenant.scriptMark))) {
    // Before the start: a script that ran twice may do more harm than one that did not run.
    await replaceFile(tenant.scriptMark, "");
    const asTenant = ["runuser", "--login", tenant.user, "--command", `exec ./${SCRIPT}`] as const;
    if ((await deps.supervisor.inspect(tenant.name)).state !== "absent")
      await deps.supervisor.stop(tenant.name, { graceMs: 0, signal });
    // What it prints is its own to keep: a file of ours would fill the host's disk.
    await deps.supervisor.start(tenant.name, asTenant, { logPath: "/dev/null", signal });
  }
  await replaceFile(tenant.machine, JSON.stringify({ fence }));
}

function givenNodes({ facts }: CreateContext): readonly string[] {
  return grantSchema.safeParse(facts["bind"]).data?.deviceNodes ?? [];
}

/** As the tenant: its number, and each node that it cannot open. The nodes are arguments, never a part of the script. */
const PROOF = 'id -u; for node in "$@"; do (: <"$node") 2>/dev/null || echo "shut $node"; done';

/** A login of the tenant, by the same way as a terminal: what it prints is known, and it ends. */
async function provesLogin(deps: MachineDeps, spec: SliceSpec, context: CreateContext): Promise<Facts> {
  const tenant = tenantOf(deps.places, spec);
  const nodes = givenNodes(context);
  const argv = ["runuser", "--login", tenant.user, "--command", PROOF, "sh", ...nodes] as const;
  const { exitCode, stdout, stderr } = await deps.commands.run(argv, {
    timeoutMs: LOGIN_TIMEOUT_MS,
    signal: context.signal,
  });
  const lines = stdout.split("\n");
  if (exitCode !== 0 || !lines.includes(String(tenant.uid)))
    throw new AppError("guest_not_ready", {
      detail: `${tenant.user} cannot log in: ${(stderr || stdout).trim().slice(-500)}. Try by hand: runuser --login ${tenant.user} --command "id -u"`,
    });
  const shut = nodes.filter((node) => lines.includes(`shut ${node}`));
  if (shut.length > 0)
    throw new AppError("gpu_unavailable", {
      detail: `${tenant.user} cannot open ${shut.join(", ")}. Try it as root: head -c0 ${shut[0]}; if that works, the node's mode or group is in the way.`,
      facts: { gpuUuids: spec.gpuUuids },
    });
  return { user: tenant.user, access: hostAccessOf(spec.labels), ...factsOfSeen(nodes, nodes) };
}

async function removeLogin(deps: MachineDeps, slice: SliceReference, signal: AbortSignal): Promise<void> {
  const tenant = tenantOf(deps.places, slice);
  if (await belongsToAnother(tenant, slice)) return;
  await rm(tenant.machine, { force: true });
  await rm(`${tenant.machine}.new`, { force: true });
  for (let round = 1; ; round += 1) {
    const account = await findAccount(deps.places, tenant, slice);
    await closeDoor(deps, tenant, account, signal);
    await deps.supervisor.stop(tenant.name, { graceMs: 0, signal });
    await endProcesses(deps, tenant.uid, signal);
    await removeIpc(deps.commands, tenant.uid, signal);
    await removeAccount(deps, tenant, account, signal);
    if ((await processesOf(tenant.uid)).length === 0) break;
    if (round === ROUNDS_MAX)
      throw new AppError("command_timeout", { detail: `Something starts processes as ${tenant.uid} again and again.` });
  }
  await closeSliceFolder(tenant);
}

/** A login shell of the tenant, as `ssh` gives it; it works without sshd. */
export function terminalOf(scope: HostScope, { user }: Tenant): TerminalCommand {
  return { argv: prefixed(scope.terminal, ["runuser", "--login", user]), env: ENVIRONMENT };
}
