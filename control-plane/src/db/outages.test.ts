import { systemClock } from "@hostler/shared/clock.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openLog } from "../log.ts";
import { watchOutages, type Outages } from "./outages.ts";
import { createTestDatabase, type TestDatabase } from "./test-database.ts";

const closing = new AbortController();
const lost = Object.assign(new Error("The connection broke."), { code: "CONNECTION_CLOSED" });
const patient = { withinMs: 20_000, gone: () => new AbortController().signal };
let database: TestDatabase;
let outages: Outages;
beforeAll(async () => {
  database = await createTestDatabase();
  outages = watchOutages({ sql: database.sql, clock: systemClock, log: openLog("silent"), closing: closing.signal });
});
afterAll(async () => await database?.close());

/** A look that fails so many times before it finds something. */
function failing(times: number): { look(): Promise<string>; looks: number } {
  const counted = {
    looks: 0,
    look: async () => {
      counted.looks += 1;
      return await (counted.looks > times ? Promise.resolve("found") : Promise.reject(lost));
    },
  };
  return counted;
}

test("a look whose connection broke is looked again, however many wait", async () => {
  const many = Array.from({ length: 350 }, () => failing(2));
  const found = await Promise.all(many.map(async ({ look }) => await outages.sitOut(look, patient)));
  expect(new Set(found)).toEqual(new Set(["found"]));
  expect(many.every(({ looks }) => looks === 3)).toBe(true);
});

test("what is no outage is not looked at again", async () => {
  let looks = 0;
  const look = async (): Promise<never> => {
    looks += 1;
    return await Promise.reject(new Error("a bug"));
  };
  await expect(outages.sitOut(look, patient)).rejects.toThrow("a bug");
  expect(looks).toBe(1);
});

test("whoever has no more time, or is gone, hears of the last failure", async () => {
  const { look } = failing(Number.POSITIVE_INFINITY);
  await expect(outages.sitOut(look, { ...patient, withinMs: 120 })).rejects.toBe(lost);
  const gone = new AbortController();
  const waiting = outages.sitOut(look, { ...patient, gone: () => gone.signal });
  gone.abort(new Error("hung up"));
  await expect(waiting).rejects.toBe(lost);
  await expect(outages.sitOut(look, { ...patient, gone: () => gone.signal })).rejects.toBe(lost);
});

test("nobody waits for a replica that closes", async () => {
  const { look } = failing(Number.POSITIVE_INFINITY);
  const waiting = outages.sitOut(look, patient);
  closing.abort(new Error("closing"));
  await expect(waiting).rejects.toBe(lost);
  await expect(outages.sitOut(look, patient)).rejects.toBe(lost);
});
