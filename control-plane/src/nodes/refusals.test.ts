import { AppError } from "@hostler/shared/errors.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { pino } from "pino";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createTestDatabase, type TestDatabase } from "../db/test-database.ts";
import { openPool } from "../db/pool.ts";
import { makeRefusals } from "./refusals.ts";

let database: TestDatabase;
beforeAll(async () => void (database = await createTestDatabase()));
afterAll(async () => await database.close());

const log = pino({ level: "silent" });
const untrusted = new AppError("certificate_untrusted");
const known = { address: "127.0.0.1", requestId: "req_test", isProven: true };

const rowsOf = async (serialPrefix: string): Promise<number> => {
  const rows = await database.sql`select from audit_log where starts_with(target_id, ${serialPrefix})`;
  return rows.length;
};

test("strangers who come with another certificate each time fill no log, and hide no refusal of ours", async () => {
  let nowMs = 0;
  const clock = { ...systemClock, monotonicMs: () => nowMs };
  const refusals = makeRefusals({ sql: database.sql, clock, log });
  for (let made = 0; made < 700; made += 1)
    await refusals.note(untrusted, { ...known, serial: `stranger-${made}`, isProven: false });
  expect(await rowsOf("stranger-")).toBe(600);
  await refusals.note(new AppError("node_revoked"), { ...known, serial: "ours" });
  expect(await rowsOf("ours")).toBe(1);
  nowMs += 1000;
  await refusals.note(untrusted, { ...known, serial: "stranger-later", isProven: false });
  const [last] = await database.sql`select detail from audit_log where target_id = 'stranger-later'`;
  expect(last?.["detail"]).toMatchObject({ code: "certificate_untrusted", omittedBefore: 100 });
});

test("the same refusal is written once in ten minutes, and again soon when it could not be written", async () => {
  const refusals = makeRefusals({ sql: database.sql, clock: systemClock, log });
  for (let round = 0; round < 3; round += 1) await refusals.note(untrusted, { ...known, serial: "same" });
  expect(await rowsOf("same")).toBe(1);

  const nowhere = openPool({ url: "postgres://127.0.0.1:1/nowhere", applicationName: "test", connectionsMax: 1 });
  let sql = nowhere;
  const away = makeRefusals({
    get sql() {
      return sql;
    },
    clock: systemClock,
    log,
  });
  await away.note(untrusted, { ...known, serial: "away" });
  sql = database.sql;
  await away.note(untrusted, { ...known, serial: "away" });
  expect(await rowsOf("away")).toBe(1);
  await nowhere.end({ timeout: 1 });
});
