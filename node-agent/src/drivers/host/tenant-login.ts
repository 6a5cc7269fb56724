import { chmod, lstat, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "@hostler/shared/errors.ts";
import { requireSuccess } from "../../host/host-commands.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import { isSameSlice, type SliceReference } from "../../ports/slice-driver.ts";
import { replaceFile } from "../slices/slice-folder.ts";
import { readAccounts, readGroups, type Account } from "./account-files.ts";
import { commentOf, parseComment, type HostPlaces, type Tenant } from "./tenant-account.ts";

export interface LoginDeps {
  readonly places: HostPlaces;
  readonly commands: HostCommands;
  /** Whether systemd runs this host and keeps sessions of users. */
  readonly hasSystemd: boolean;
}

const TIMEOUT_MS = 30_000;

/** The tenant's account where it is there. One of another slice, or one that somebody else made, is nobody's. */
export async function findAccount(places: HostPlaces, tenant: Tenant, slice: SliceReference): Promise<Account | null> {
  const found = (await readAccounts(places.etcDir)).find(({ name }) => name === tenant.user);
  if (found === undefined || found.uid !== tenant.uid) return null;
  const owner = parseComment(found.comment);
  // A tenant may have changed the comment; then the name and the number, which are ours alone, say whose it is.
  return owner !== null && !isSameSlice(owner, slice) ? null : found;
}

/** Group and account, without a password: a key or the web terminal is the only way in. Half of it there is made whole. */
export async function makeAccount(
  deps: LoginDeps,
  tenant: Tenant,
  { slice, fence, signal }: { readonly slice: SliceReference; readonly fence: string; readonly signal: AbortSignal },
): Promise<void> {
  const { user, uid, home } = tenant;
  const run = runner(deps.commands, signal);
  const [accounts, groups] = await Promise.all([readAccounts(deps.places.etcDir), readGroups(deps.places.etcDir)]);
  const known = await findAccount(deps.places, tenant, slice);
  const inTheWay =
    accounts.find((one) => (one.uid === uid || one.name === user) && one.name !== known?.name)?.name ??
    groups.find(({ name, gid }) => (gid === uid) !== (name === user))?.name;
  if (inTheWay !== undefined)
    throw new AppError("conflict", {
      detail: `The account ${inTheWay} has the name ${user} or the number ${uid}, which this slice needs. Remove it if nobody uses it: userdel ${inTheWay}`,
    });
  if (!groups.some(({ name }) => name === user)) await run(["groupadd", "--gid", String(uid), user]);
  const comment = commentOf(slice, fence);
  if (known === null) {
    const numbers = ["--uid", String(uid), "--gid", String(uid)];
    const login = ["--home-dir", home, "--shell", "/bin/bash", "--password", "*", "--comment", comment];
    await run(["useradd", "--no-create-home", "--no-log-init", ...numbers, ...login, user]);
  } else await run(["usermod", "--expiredate", "", "--shell", "/bin/bash", "--comment", comment, user]);
}

/** Lets the account open the nodes of its GPUs, by the groups that the host's rules gave them to. */
export async function joinGroups(
  deps: LoginDeps,
  { tenant, deviceNodes }: { readonly tenant: Tenant; readonly deviceNodes: readonly string[] },
  signal: AbortSignal,
): Promise<void> {
  const groups = await readGroups(deps.places.etcDir);
  const names = new Set<string>();
  for (const node of deviceNodes) {
    const { mode, gid } = await stat(node);
    // oxlint-disable-next-line no-bitwise -- Permission bits.
    if ((mode & 0o006) === 0o006) continue;
    const group = groups.find((one) => one.gid === gid)?.name;
    // oxlint-disable-next-line no-bitwise -- Permission bits.
    if ((mode & 0o060) !== 0o060 || gid === 0 || group === undefined)
      throw new AppError("driver_unavailable", {
        detail: `${node} can be opened by root only. Give it a group such as video with mode 0660, or mode 0666, by a rule of udev or NVreg_DeviceFileGID.`,
      });
    names.add(group);
  }
  if (names.size === 0) return;
  await runner(deps.commands, signal)(["usermod", "--append", "--groups", [...names].join(","), tenant.user]);
}

export async function giveRoot({ sudoers, user }: Tenant): Promise<void> {
  await replaceFile(sudoers, `${user} ALL=(ALL:ALL) NOPASSWD: ALL\n`);
  await chmod(sudoers, 0o440);
}

/** Nobody logs in any more, and nothing starts by itself; what runs runs on. */
export async function closeDoor(
  deps: LoginDeps,
  tenant: Tenant,
  account: Account | null,
  signal: AbortSignal,
): Promise<void> {
  const { user, uid, sudoers } = tenant;
  for (const path of [sudoers, `${sudoers}.new`]) await rm(path, { force: true });
  const run = runner(deps.commands, signal);
  if (account !== null) await run(["usermod", "--expiredate", "1", "--shell", "/usr/sbin/nologin", user]);
  for (const folder of ["/var/spool/cron/crontabs", "/var/spool/cron", "/var/lib/systemd/linger"])
    await rm(join(folder, user), { force: true });
  await removeJobs("/var/spool/cron/atjobs", uid);
  if (!deps.hasSystemd) return;
  // Each fails where there is nothing to end; what is left is seen by looking for processes.
  const options = { timeoutMs: TIMEOUT_MS, signal };
  await deps.commands.run(["loginctl", "disable-linger", String(uid)], options);
  await deps.commands.run(["loginctl", "kill-user", "--signal=SIGKILL", String(uid)], options);
  await deps.commands.run(["systemctl", "stop", `user@${uid}.service`, `user-${uid}.slice`], options);
}

/** No process may live. The entry goes by force: processes that have ended and that nobody counted are no hindrance. */
export async function removeAccount(
  deps: LoginDeps,
  tenant: Tenant,
  account: Account | null,
  signal: AbortSignal,
): Promise<void> {
  const run = runner(deps.commands, signal);
  if (account !== null) await run(["userdel", "--force", tenant.user]);
  const groups = await readGroups(deps.places.etcDir);
  const isOurs = groups.some(({ name, gid }) => name === tenant.user && gid === tenant.uid);
  const accounts = await readAccounts(deps.places.etcDir);
  if (isOurs && !accounts.some(({ name }) => name === tenant.user)) await run(["groupdel", tenant.user]);
}

/** Jobs of `at` carry their user's number, not the name. */
async function removeJobs(folder: string, uid: number): Promise<void> {
  for (const name of await readdir(folder).catch(() => [])) {
    const path = join(folder, name);
    if ((await lstat(path)).uid === uid) await rm(path, { force: true });
  }
}

function runner(commands: HostCommands, signal: AbortSignal): (argv: readonly [string, ...string[]]) => Promise<void> {
  return async (argv) => void requireSuccess(argv, await commands.run(argv, { timeoutMs: TIMEOUT_MS, signal }));
}
