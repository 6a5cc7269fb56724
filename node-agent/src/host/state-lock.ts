import { mkdir, open, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "@hostler/shared/errors.ts";
import * as z from "zod";
import { readBootId } from "./facts.ts";
import { startTimeOf } from "./process-start-time.ts";

const holderSchema = z.object({ pid: z.int(), startTime: z.string(), bootId: z.string() });
type Holder = z.infer<typeof holderSchema>;

/** One agent on one state folder: two would hand the same GPU out twice. */
export interface StateLock {
  release(): Promise<void>;
}

const NAME = "agent.lock";

/** Rejects with `conflict` and the pid while another agent runs. A lock whose process is gone, or is another by now, is taken over. */
export async function lockStateDir(stateDir: string): Promise<StateLock> {
  await mkdir(stateDir, { recursive: true, mode: 0o700 });
  const path = join(stateDir, NAME);
  const me: Holder = {
    pid: process.pid,
    startTime: (await startTimeOf(process.pid)) ?? "",
    bootId: await readBootId(),
  };
  for (let attempt = 1; attempt <= 5; attempt += 1) {
    if (await tryCreate(path, me)) return { release: async () => await rm(path, { force: true }) };
    const text = await readFile(path, "utf8").catch(() => null);
    if (text === null) continue;
    const holder = parseHolder(text);
    if (holder !== null && (await isAlive(holder, me.bootId))) {
      throw new AppError("conflict", {
        detail: `Another agent (pid ${holder.pid}) runs on ${stateDir}. Stop it, or give this one another HOSTLER_AGENT_STATE_DIR.`,
      });
    }
    await setAside(path, text);
  }
  throw new AppError("conflict", { detail: `Other agents keep starting on ${stateDir}.` });
}

/** Who holds the state folder now; null when no agent runs. */
export async function readLockHolder(stateDir: string): Promise<{ readonly pid: number } | null> {
  const text = await readFile(join(stateDir, NAME), "utf8").catch(() => null);
  const holder = text === null ? null : parseHolder(text);
  return holder !== null && (await isAlive(holder, await readBootId())) ? holder : null;
}

async function tryCreate(path: string, holder: Holder): Promise<boolean> {
  try {
    const file = await open(path, "wx", 0o600);
    await file.writeFile(JSON.stringify(holder));
    await file.close();
    return true;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "EEXIST") return false;
    throw error;
  }
}

/** Moves a dead lock away. When another starter was faster, what was moved is its live lock: it goes back. */
async function setAside(path: string, deadText: string): Promise<void> {
  const aside = `${path}.${process.pid}`;
  await rename(path, aside).catch(() => "Somebody else has moved it.");
  const moved = await readFile(aside, "utf8").catch(() => null);
  if (moved !== null && moved !== deadText) await rename(aside, path);
  else await rm(aside, { force: true });
}

async function isAlive(holder: Holder, bootId: string): Promise<boolean> {
  return holder.bootId === bootId && (await startTimeOf(holder.pid)) === holder.startTime;
}

function parseHolder(text: string): Holder | null {
  try {
    return holderSchema.parse(JSON.parse(text));
  } catch {
    // Half written by an agent that died right then.
    return null;
  }
}
