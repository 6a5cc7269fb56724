import { chmod, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "@hostler/shared/clock.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import { startEmbeddedPostgres } from "./embedded-postgres.ts";
import { isDatabaseAway, openPool } from "./pool.ts";

let stateDir: string;
beforeAll(async () => {
  stateDir = await mkdtemp(join(tmpdir(), "hostler-embedded-"));
  await chmod(stateDir, 0o755);
});
afterAll(async () => await rm(stateDir, { recursive: true, force: true }));

const never = new AbortController().signal;
const options = (): Parameters<typeof startEmbeddedPostgres>[0] => ({
  stateDir,
  clock: systemClock,
  onProgress: () => undefined,
});

test(
  "data outlives a clean stop, and a killed server is started again on the same port",
  { timeout: 120_000 },
  async () => {
    const first = await startEmbeddedPostgres(options());
    const sql = openPool({ url: first.url, applicationName: "test" });
    await sql`create table kept (id int)`;
    await sql`insert into kept values (1)`;
    const before = first.pid();
    process.kill(before ?? 0, "SIGKILL");
    while (first.pid() === before) await systemClock.sleep(20, never);
    // Refusals until then are told as an absent database, and the same pool goes on afterwards.
    for (let rows = 0; rows !== 1; await systemClock.sleep(50, never)) {
      rows = await sql`select from kept`.then(
        (found) => found.length,
        (error: unknown) => {
          expect(isDatabaseAway(error)).toBe(true);
          return 0;
        },
      );
    }
    await sql.end();
    await first.stop();
    expect(await readFile(join(stateDir, "postgres/data/postmaster.pid"), "utf8").catch(() => "stopped")).toBe(
      "stopped",
    );

    const second = await startEmbeddedPostgres(options());
    const again = openPool({ url: second.url, applicationName: "test" });
    expect(await again`select from kept`).toHaveLength(1);
    await again.end();
    await second.stop();
  },
);

test("a server that is started again while it is to stop is stopped too", { timeout: 120_000 }, async () => {
  const isRestarting = Promise.withResolvers<void>();
  const onProgress = (line: string): void => {
    if (line.includes("starting it again")) isRestarting.resolve();
  };
  const server = await startEmbeddedPostgres({ ...options(), onProgress });
  process.kill(server.pid() ?? 0, "SIGQUIT");
  await isRestarting.promise;
  await server.stop();
  const pidFile = join(stateDir, "postgres/data/postmaster.pid");
  expect(await readFile(pidFile, "utf8").catch(() => "stopped")).toBe("stopped");
});

test("a folder that the database's user may not enter is named with the remedy", async () => {
  if (process.getuid?.() !== 0) return;
  await chmod(stateDir, 0o700);
  await expect(startEmbeddedPostgres(options())).rejects.toThrow(new RegExp(`chmod o\\+x ${stateDir}`));
  await chmod(stateDir, 0o755);
});
