import { readFile } from "node:fs/promises";
import { join } from "node:path";

export interface Account {
  readonly name: string;
  readonly uid: number;
  readonly comment: string;
}

export interface Group {
  readonly name: string;
  readonly gid: number;
}

/** The accounts of the host itself, without those of a directory service: what we make is in the files. */
export async function readAccounts(etcDir: string): Promise<readonly Account[]> {
  return (await rowsOf(join(etcDir, "passwd"))).flatMap(([name, , uid, , comment]) =>
    name === undefined || uid === undefined ? [] : [{ name, uid: Number(uid), comment: comment ?? "" }],
  );
}

export async function readGroups(etcDir: string): Promise<readonly Group[]> {
  return (await rowsOf(join(etcDir, "group"))).flatMap(([name, , gid]) =>
    name === undefined || gid === undefined ? [] : [{ name, gid: Number(gid) }],
  );
}

async function rowsOf(path: string): Promise<readonly string[][]> {
  const text = await readFile(path, "utf8");
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => line.split(":"));
}
