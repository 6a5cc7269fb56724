import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { openPool } from "@hostler/control-plane/db/pool.ts";
import type { Sql } from "@hostler/control-plane/db/sql.ts";

/** Opens the embedded database of a running control plane, to see or to bend what no API shows, such as the age of a lease. */
export async function openEmbeddedDatabase(planeStateDir: string): Promise<Sql> {
  return openPool({ url: await embeddedDatabaseUrl(planeStateDir), applicationName: "test", connectionsMax: 2 });
}

/** Where it is, for a second replica. */
export async function embeddedDatabaseUrl(planeStateDir: string): Promise<string> {
  const password = (await readFile(join(planeStateDir, "postgres/password"), "utf8")).trim();
  const port = (await readFile(join(planeStateDir, "postgres/data/postmaster.pid"), "utf8")).split("\n")[3]?.trim();
  return `postgres://hostler:${password}@127.0.0.1:${port}/hostler`;
}
