import { randomUUID } from "node:crypto";
import { AppError } from "@hostler/shared/errors.ts";
import { Hono } from "hono";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createTestDatabase, type TestDatabase } from "../db/test-database.ts";
import { inTransaction } from "../db/transaction.ts";
import type { PublicEnv } from "./env.ts";
import { doOnceInTransaction } from "./idempotency.ts";

const PRINCIPAL = "prn_idempotency";
let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
  await database.sql`insert into principals (id, kind, name) values (${PRINCIPAL}, 'api_key', 'idempotency')`;
  await database.sql`create table things (id text primary key)`;
});
afterAll(async () => await database?.close());

/** A route that makes a thing; `afterCommit` is what happens to it once that is done. */
function appWith(options: { beforeCommit?(): Promise<void>; afterCommit?(): void }): Hono<PublicEnv> {
  const app = new Hono<PublicEnv>();
  app.use(async (c, next) => {
    c.set("principal", { id: PRINCIPAL } as PublicEnv["Variables"]["principal"]);
    await next();
  });
  app.post("/things", doOnceInTransaction(202), async (c) => {
    const answer = await inTransaction(
      database.sql,
      async (tx) =>
        await c.var.once.run(tx, async () => {
          const id = randomUUID();
          await tx`insert into things (id) values (${id})`;
          await options.beforeCommit?.();
          return { id };
        }),
    );
    options.afterCommit?.();
    return c.json(answer, 202);
  });
  app.onError((error, c) => c.json({ code: error instanceof AppError ? error.code : "lost" }, 503));
  return app;
}

async function ask(app: Hono<PublicEnv>, key: string, body = "{}"): Promise<Response> {
  return await app.request("/things", { method: "POST", headers: { "idempotency-key": key }, body });
}

async function things(): Promise<number> {
  return (await database.sql`select from things`).length;
}

test("a request whose commit was done and never heard of is answered with what it made when it comes again", async () => {
  const before = await things();
  const lost = appWith({
    afterCommit: () => {
      throw new Error("the connection was cut before the answer to the commit");
    },
  });
  expect((await ask(lost, "commit-unknown")).status).toBe(503);
  const again = await ask(appWith({}), "commit-unknown");
  expect(again.status).toBe(202);
  expect(again.headers.get("idempotency-replayed")).toBe("true");
  expect(await things()).toBe(before + 1);
});

test("a request that ended without a commit leaves its key free at once", async () => {
  const before = await things();
  const broken = appWith({ beforeCommit: async () => await Promise.reject(new Error("the connection was cut")) });
  expect((await ask(broken, "rolled-back")).status).toBe(503);
  const again = await ask(appWith({}), "rolled-back");
  expect(again.status).toBe(202);
  expect(again.headers.get("idempotency-replayed")).toBeNull();
  expect(await things()).toBe(before + 1);
});

test("the same request while the first is in progress waits and hears the same", async () => {
  const before = await things();
  const isBegun = Promise.withResolvers<void>();
  const mayEnd = Promise.withResolvers<void>();
  const slow = appWith({
    beforeCommit: async () => {
      isBegun.resolve();
      await mayEnd.promise;
    },
  });
  const first = ask(slow, "at-once");
  await isBegun.promise;
  const second = ask(appWith({}), "at-once");
  mayEnd.resolve();
  const answers = await Promise.all([first, second]);
  expect(answers.map((answer) => answer.status)).toEqual([202, 202]);
  const [one, other] = await Promise.all(answers.map(async (answer) => await answer.json()));
  expect(other).toEqual(one);
  expect(await things()).toBe(before + 1);
});

test("a key that was used for another request is refused", async () => {
  await ask(appWith({}), "reused", '{"a":1}');
  expect(await (await ask(appWith({}), "reused", '{"a":2}')).json()).toEqual({ code: "idempotency_key_reused" });
  expect(await (await appWith({}).request("/things", { method: "POST", body: "{}" })).json()).toEqual({
    code: "idempotency_key_required",
  });
});
