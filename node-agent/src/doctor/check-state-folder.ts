import { access, constants, open, rm, stat, statfs } from "node:fs/promises";
import { dirname, join } from "node:path";
import { ok, problem, skipped, warning, type Outcome } from "./finding.ts";
import type { Scene } from "./scene.ts";
import { codeOf, fileErrorText, sizeText } from "./words.ts";

const MIB = 1024 ** 2;
const FREE_BYTES = { problem: 512 * MIB, warning: 5 * 1024 * MIB } as const;
const FREE_INODES = { problem: 1000, warning: 10_000 } as const;

/** The folder in which the agent remembers: who may look into it, whether it can be written, and how much fits. */
export async function checkStateFolder(scene: Scene): Promise<readonly Outcome[]> {
  const { stateDir } = scene;
  let found;
  try {
    found = await stat(stateDir);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return await checkPlaceToBe(stateDir);
    return [unreachable(stateDir, error)];
  }
  if (!found.isDirectory()) {
    return [
      problem({
        text: `${stateDir} is not a folder`,
        matters: "the agent keeps its identity and its slices in it",
        remedy: `Move that file away, or name another folder in HOSTLER_AGENT_STATE_DIR.`,
      }),
    ];
  }
  const owner = await checkOwner(scene, found.uid);
  // What a stranger may not do there follows from that, and says nothing of the agent.
  if (owner.length > 0 && scene.deps.userId !== 0) return owner;
  const trouble = [
    ...owner,
    ...checkMode(stateDir, found.mode),
    ...(await checkWriting(stateDir)),
    ...(await checkSpace(stateDir)),
  ];
  return trouble.length > 0 ? trouble : [ok(`${stateDir} is private and writable, ${await freeText(stateDir)} free`)];
}

/** Not there yet: what counts is the folder in which it would be made. */
async function checkPlaceToBe(stateDir: string): Promise<readonly Outcome[]> {
  let parent = dirname(stateDir);
  while ((await stat(parent).catch(() => null)) === null && parent !== dirname(parent)) parent = dirname(parent);
  const mayWrite = await access(parent, constants.W_OK | constants.X_OK).then(
    () => null,
    (error: unknown) => unwritable(parent, error),
  );
  const trouble = [...(mayWrite === null ? [] : [mayWrite]), ...(await checkSpace(parent))];
  return trouble.length > 0 ? trouble : [skipped(`${stateDir} does not exist yet; hostler-agent enroll makes it`)];
}

/** Whose it should be: the agent's that runs, or else ours. */
async function checkOwner(scene: Scene, owner: number): Promise<readonly Outcome[]> {
  const running = scene.agent === null ? null : await stat(`/proc/${scene.agent.pid}`).catch(() => null);
  const user = running?.uid ?? scene.deps.userId;
  if (owner === user) return [];
  const who = running === null ? "this command runs as" : "the agent runs as";
  return [
    problem({
      text: `${scene.stateDir} belongs to user ${owner}, ${who} user ${user}`,
      matters: "files of two users in it lock the agent out",
      remedy: `Run the agent and this command as user ${owner}, or give the folder over: chown -R ${user} ${scene.stateDir}`,
    }),
  ];
}

function checkMode(path: string, mode: number): readonly Outcome[] {
  const bits = mode & 0o777;
  const shown = bits.toString(8).padStart(4, "0");
  const remedy = `chmod 700 ${path}`;
  if ((bits & 0o077) !== 0) {
    const matters = "the node's key and its tenants' disks lie in it";
    return [problem({ text: `${path} is open to other users of this host (mode ${shown})`, matters, remedy })];
  }
  if (bits !== 0o700)
    return [problem({ text: `${path} has mode ${shown}`, matters: "its owner needs all of it", remedy })];
  return [];
}

async function checkWriting(folder: string): Promise<readonly Outcome[]> {
  const path = join(folder, `.doctor-${process.pid}`);
  try {
    const file = await open(path, "wx", 0o600);
    try {
      await file.writeFile("hostler-agent doctor\n");
      await file.sync();
    } finally {
      await file.close();
    }
    return [];
  } catch (error) {
    return [unwritable(folder, error)];
  } finally {
    // On a read-only file system even this fails, and there is nothing to remove.
    await rm(path, { force: true }).catch(() => undefined);
  }
}

function unwritable(folder: string, error: unknown): Outcome {
  const code = codeOf(error);
  const matters = "the agent writes down each step before it acts, and stops where it cannot";
  if (code === "EROFS") {
    const remedy = `See why with: dmesg | tail; then: mount -o remount,rw $(findmnt -n -o TARGET --target ${folder})`;
    return problem({ text: `${folder} is on a file system that is mounted read-only`, matters, remedy });
  }
  if (code === "ENOSPC" || code === "EDQUOT") {
    const remedy = `Free space or raise the quota: df -h ${folder}; df -i ${folder}; du -xsh ${folder}/*`;
    return problem({ text: `${folder} takes no more files: no space or quota is left`, matters, remedy });
  }
  return problem({
    text: `${folder} cannot be written (${fileErrorText(error)})`,
    matters,
    remedy: `Run as the folder's owner (ls -ld ${folder}), or name another folder in HOSTLER_AGENT_STATE_DIR.`,
  });
}

function unreachable(stateDir: string, error: unknown): Outcome {
  return problem({
    text: `${stateDir} cannot be looked at (${fileErrorText(error)})`,
    matters: "the agent keeps its identity and its slices in it",
    remedy: `Run as the user that runs the agent, or mend what is above it: namei -l ${stateDir}`,
  });
}

async function checkSpace(folder: string): Promise<readonly Outcome[]> {
  const { bavail, bsize, ffree, files } = await statfs(folder);
  const remedy = `Free space or enlarge the disk: df -h ${folder}; df -i ${folder}; du -xsh ${folder}/*`;
  const matters = "journals, images and disks of slices are written there";
  const bytes = { free: bavail * bsize, limits: FREE_BYTES, text: `${sizeText(bavail * bsize)} are` };
  // Some file systems, such as btrfs, make inodes as they need them and count none.
  const inodes = { free: files === 0 ? Infinity : ffree, limits: FREE_INODES, text: `${ffree} inodes are` };
  return [bytes, inodes].flatMap(({ free, limits, text }) => {
    const trouble = { text: `only ${text} free on the disk of ${folder}`, matters, remedy };
    if (free < limits.problem) return [problem(trouble)];
    return free < limits.warning ? [warning(trouble)] : [];
  });
}

async function freeText(folder: string): Promise<string> {
  const { bavail, bsize } = await statfs(folder);
  return sizeText(bavail * bsize);
}
