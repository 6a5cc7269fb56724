import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chmod } from "node:fs/promises";
import { systemClock } from "@hostler/shared/clock.ts";
import { startEmbeddedPostgres } from "./embedded-postgres.ts";
import { migrate } from "./migrate.ts";
import { maintainPartitions } from "./partitions.ts";
import { openDriver } from "./pool.ts";

/**
 * Starts one PostgreSQL for the whole test run and migrates a template, from which each test file copies its database.
 *
 * @public vitest calls it by its name
 */
export async function setup(): Promise<() => Promise<void>> {
  const stateDir = await mkdtemp(join(tmpdir(), "hostler-test-postgres-"));
  await chmod(stateDir, 0o755);
  const server = await startEmbeddedPostgres({ stateDir, clock: systemClock, onProgress: () => undefined });
  const admin = openDriver(server.url, { max: 1, onnotice: () => undefined });
  await admin.unsafe("create database hostler_template");
  await admin.end();
  const templateUrl = new URL(server.url);
  templateUrl.pathname = "/hostler_template";
  const template = openDriver(templateUrl.href, { max: 1, onnotice: () => undefined });
  await migrate(template);
  await maintainPartitions(template, systemClock.now(), {});
  await template.end();
  process.env["HOSTLER_TEST_DATABASE_URL"] = server.url;
  return async () => {
    await server.stop();
    await rm(stateDir, { recursive: true, force: true });
  };
}
