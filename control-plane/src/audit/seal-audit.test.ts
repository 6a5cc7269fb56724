import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { linesOf, makeEd25519Key, verifyAuditExport, type AuditReport } from "@hostler/pki";
import { systemClock } from "@hostler/shared/clock.ts";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { waitFor } from "../../../test/support/wait-for.ts";
import { MIGRATIONS_DIR } from "../db/migrate.ts";
import { openPool } from "../db/pool.ts";
import type { Queryable } from "../db/sql.ts";
import { createTestDatabase, type TestDatabase } from "../db/test-database.ts";
import { inTransaction } from "../db/transaction.ts";
import { makeAuditSigner, type CheckpointMemory } from "./audit-signer.ts";
import { exportAudit } from "./export-audit.ts";
import { trySealerLock } from "./chain-store.ts";
import { SEAL_LIMITS, sealAudit, type SealLimits, type SealOutcome } from "./seal-audit.ts";
import { insertAuditRow } from "./store.ts";

let database: TestDatabase;
beforeEach(async () => {
  database = await createTestDatabase();
  auditSigner = makeAuditSigner(makeEd25519Key(), makeMemory());
});
afterEach(async () => await database.close());

let auditSigner = makeAuditSigner(makeEd25519Key(), makeMemory());
function makeMemory(): CheckpointMemory {
  let kept: string | null = null;
  return {
    recall: async () => await Promise.resolve(kept),
    remember: async (jws) => {
      kept = await Promise.resolve(jws);
    },
  };
}

const seal = async (limits: Partial<SealLimits> = {}, signer = auditSigner): Promise<SealOutcome | null> =>
  await sealAudit({ sql: database.sql, clock: systemClock, auditSigner: signer }, { ...SEAL_LIMITS, ...limits });

/**
 * Resolves when no transaction runs that is older than this moment. Other test files write to other databases of the same
 * server, and their transactions hold sealing back like ours.
 */
async function settle(): Promise<void> {
  const [now] = await database.sql<{ tx: string }[]>`select pg_current_xact_id()::text as tx`;
  await waitFor("the end of older transactions", async () => {
    const rows = await database.sql`select where pg_snapshot_xmin(pg_current_snapshot()) > ${now?.tx ?? ""}::xid8`;
    return rows.length === 1;
  });
}

async function addRow(db: Queryable, targetId: string): Promise<void> {
  await insertAuditRow(db, {
    actor: "prn_test",
    action: "test.done",
    targetId,
    targetVersion: null,
    outcome: "succeeded",
    requestId: null,
    detail: { b: 1, a: "é" },
  });
}

async function sealedTargets(): Promise<string[]> {
  const rows = await database.sql<{ target: string; position: string }[]>`
    select a.target_id as target, c.position
    from audit_chain c
    join audit_log a on a.seq = c.audit_seq
    order by c.position
  `;
  expect(rows.map((row) => Number(row.position))).toEqual(rows.map((_, index) => index + 1));
  return rows.map((row) => row.target);
}

async function verify(afterPosition = 0): Promise<AuditReport> {
  const pieces = exportAudit({ sql: database.sql, auditSigner }, afterPosition);
  return await verifyAuditExport(linesOf(pieces), { publicKeys: [auditSigner.publicKey] });
}

test("rows written at once by many connections are each sealed once, in the order of their transactions", async () => {
  const writers = Array.from({ length: 6 }, async (_, writer) => {
    for (let turn = 0; turn < 40; turn += 1) {
      await inTransaction(database.sql, async (tx) => {
        await addRow(tx, `${writer}-${turn}-a`);
        if (turn % 3 === 0) await tx`select pg_sleep(0.005)`;
        await addRow(tx, `${writer}-${turn}-b`);
      });
    }
  });
  const written = Promise.all(writers).then(() => true);
  while (!(await Promise.race([written, seal({ batchMax: 17, checkpointEntries: 10 }).then(() => false)])));
  await settle();
  while ((await seal())?.sealed !== 0);
  const expected = await database.sql<{ target: string }[]>`select target_id as target from audit_log order by tx, seq`;
  expect(await sealedTargets()).toEqual(expected.map((row) => row.target));
  expect(expected).toHaveLength(480);
  expect(await verify()).toMatchObject({ problem: null, count: 480 });
});

test("two sealers at once never fork the chain", async () => {
  for (let row = 0; row < 200; row += 1) await addRow(database.sql, `target-${row}`);
  const other = openPool({ url: database.url, applicationName: "other sealer", connectionsMax: 2 });
  const rounds = Array.from({ length: 40 }, async (_, round) => {
    const sql = round % 2 === 0 ? database.sql : other;
    return await sealAudit({ sql, clock: systemClock, auditSigner }, { ...SEAL_LIMITS, batchMax: 10 });
  });
  await Promise.all(rounds);
  await other.end();
  await settle();
  while ((await seal({ batchMax: 10 }))?.sealed !== 0);
  expect(await sealedTargets()).toHaveLength(200);
  expect(await verify()).toMatchObject({ problem: null, count: 200 });
});

test("a sealer leaves the work to the one that is at it", async () => {
  await inTransaction(database.sql, async (tx) => {
    expect(await trySealerLock(tx)).toBe(true);
    expect(await seal()).toBe(null);
  });
});

test("a rolled back transaction leaves no gap", async () => {
  await addRow(database.sql, "before");
  const undone = inTransaction(database.sql, async (tx) => {
    await addRow(tx, "undone");
    throw new Error("undone");
  });
  await expect(undone).rejects.toThrow("undone");
  await addRow(database.sql, "after");
  await settle();
  await seal();
  expect(await sealedTargets()).toEqual(["before", "after"]);
  expect(await verify()).toMatchObject({ problem: null, count: 2, unsignedTail: 0 });
});

test("a transaction that stays open holds sealing back, and nothing is skipped", async () => {
  await addRow(database.sql, "earlier");
  await settle();
  await inTransaction(database.sql, async (tx) => {
    await addRow(tx, "slow");
    await addRow(database.sql, "quick");
    expect(await seal()).toMatchObject({ sealed: 1 });
    expect(await sealedTargets()).toEqual(["earlier"]);
    await addRow(tx, "slow again");
  });
  await settle();
  await seal();
  expect(await sealedTargets()).toEqual(["earlier", "slow", "slow again", "quick"]);
});

test("checkpoints come after so many entries, and after so long when there is anything new", async () => {
  for (let row = 0; row < 25; row += 1) await addRow(database.sql, `target-${row}`);
  await settle();
  expect(await seal({ batchMax: 12, checkpointEntries: 10 })).toMatchObject({ checkpointPosition: 12 });
  expect(await seal({ batchMax: 12, checkpointEntries: 10 })).toMatchObject({ checkpointPosition: 22 });
  expect(await seal({ checkpointEntries: 10 })).toMatchObject({ lastPosition: 25, checkpointPosition: 22 });
  expect(await verify()).toMatchObject({ problem: null, unsignedTail: 3 });
  expect(await seal({ checkpointAgeMs: 0 })).toMatchObject({ sealed: 0, checkpointPosition: 25 });
  expect(await seal({ checkpointAgeMs: 0 })).toMatchObject({ sealed: 0, checkpointPosition: 25 });
  expect(await verify()).toMatchObject({ problem: null, unsignedTail: 0 });
});

test("an export may begin anywhere in the chain and nowhere else", async () => {
  for (let row = 0; row < 5; row += 1) await addRow(database.sql, `target-${row}`);
  await settle();
  await seal();
  expect(await verify(3)).toMatchObject({ problem: null, count: 2, firstPosition: 4, lastPosition: 5 });
  await expect(verify(6)).rejects.toMatchObject({ code: "validation_failed" });
});

test("a log that was written before there was a chain is sealed from its first row", async () => {
  const { sql } = database;
  await sql.unsafe("drop schema public cascade; create schema public");
  const [first = "", second = ""] = (await readdir(MIGRATIONS_DIR)).toSorted();
  await sql.unsafe(await readFile(join(MIGRATIONS_DIR, first), "utf8"));
  for (const target of ["old 1", "old 2"]) await addRow(sql, target);
  await sql.unsafe(await readFile(join(MIGRATIONS_DIR, second), "utf8"));
  await addRow(sql, "new");
  await settle();
  await seal();
  expect(await sealedTargets()).toEqual(["old 1", "old 2", "new"]);
});

test("rows that were restored from a server with higher transaction numbers are sealed, and so is what follows", async () => {
  const addForeign = async (targetId: string, number: number): Promise<void> => {
    await database.sql`
      insert into audit_log (actor, action, target_id, outcome, tx)
      values ('prn_test', 'test.done', ${targetId}, 'succeeded', (pg_current_xact_id()::text::bigint + ${number})::text::xid8)
    `;
  };
  await addForeign("old 1", 1_000_000);
  await seal();
  await addForeign("old 2", 2_000_000);
  await addRow(database.sql, "new 1");
  await settle();
  await seal();
  await addRow(database.sql, "new 2");
  await settle();
  await seal();
  expect(await sealedTargets()).toEqual(["old 1", "old 2", "new 1", "new 2"]);
});

describe("history that was rewritten in the database", () => {
  const rewrite = async (statement: string): Promise<void> => {
    await database.sql.begin(async (tx) => {
      await tx.unsafe("alter table audit_log disable trigger audit_append_only");
      await tx.unsafe(statement);
      await tx.unsafe("alter table audit_log enable always trigger audit_append_only");
    });
  };

  test("is found by whoever verifies an export", async () => {
    for (let row = 0; row < 5; row += 1) await addRow(database.sql, `target-${row}`);
    await settle();
    await seal();
    await rewrite("update audit_log set at = at + interval '1 microsecond' where target_id = 'target-2'");
    expect((await verify()).problem).toMatchObject({ kind: "edited", position: 3 });
  });

  test("is not signed by the next checkpoint", async () => {
    for (let row = 0; row < 5; row += 1) {
      await addRow(database.sql, `target-${row}`);
      await settle();
      await seal();
    }
    await rewrite("update audit_log set actor = 'prn_other' where target_id = 'target-3'");
    await expect(seal({ checkpointAgeMs: 0 })).rejects.toThrow(/changed between positions 1 and 5/);
  });

  test("is not signed from the beginning when the chain was emptied", async () => {
    await addRow(database.sql, "target");
    await settle();
    await seal();
    for (const table of ["audit_checkpoints", "audit_chain"]) {
      await database.sql.unsafe(`alter table ${table} disable trigger user; delete from ${table}`);
    }
    await expect(seal()).rejects.toThrow(/the audit log was cut/);
    expect(await sealedTargets()).toEqual([]);
  });
});

test("signing goes on after the key was replaced", async () => {
  await addRow(database.sql, "before");
  await settle();
  await seal();
  await addRow(database.sql, "after");
  await settle();
  const next = makeAuditSigner(makeEd25519Key(), auditSigner.memory);
  expect(await seal({ checkpointAgeMs: 0 }, next)).toMatchObject({ checkpointPosition: 2 });
  const pieces = exportAudit({ sql: database.sql, auditSigner: next }, 0);
  const publicKeys = [auditSigner.publicKey, next.publicKey];
  expect((await verifyAuditExport(linesOf(pieces), { publicKeys })).problem).toBe(null);
});
