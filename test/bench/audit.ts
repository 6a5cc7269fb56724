import { createReadStream, createWriteStream } from "node:fs";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { openAuditSigner, type AuditSigner } from "@hostler/control-plane/audit/audit-signer.ts";
import { exportAudit } from "@hostler/control-plane/audit/export-audit.ts";
import { sealAudit } from "@hostler/control-plane/audit/seal-audit.ts";
import { startEmbeddedPostgres } from "@hostler/control-plane/db/embedded-postgres.ts";
import { migrate } from "@hostler/control-plane/db/migrate.ts";
import { openPool } from "@hostler/control-plane/db/pool.ts";
import type { Sql } from "@hostler/control-plane/db/sql.ts";
import { linesOf, verifyAuditExport } from "@hostler/pki";
import { systemClock } from "@hostler/shared/clock.ts";
import { makeGenuineExport, tamper, verifyLines } from "../support/audit-tampering.ts";
import { makeRandom, type Suite, type SuiteOptions } from "../support/suite.ts";

const ENTRIES = 60_000;
const CONNECTIONS = 8;
const ROWS_A_STATEMENT = 100;
const TAMPERINGS = 10_000;
const TAMPERED_ENTRIES = 2000;
const TAMPERED_CHECKPOINT_ENTRIES = 100;

export const auditSuite: Suite = {
  about: "seals, exports and verifies an audit log, and tampers with one 10,000 times",
  run: async (options) => ({
    figures: { ...(await measureLog(options)), ...(await tamperOften(options)) },
    targets: [
      { figure: "verified_entries_per_s", atLeast: 50_000 },
      { figure: "tamperings_missed", atMost: 0 },
    ],
  }),
};

/** A log on a real PostgreSQL of its own, from insert to verdict. */
async function measureLog(options: SuiteOptions): Promise<Record<string, number>> {
  const stateDir = await mkdtemp(join(tmpdir(), "hostler-bench-audit-"));
  await chmod(stateDir, 0o755);
  const server = await startEmbeddedPostgres({ stateDir, clock: systemClock, onProgress: options.say });
  const sql = openPool({ url: server.url, applicationName: "bench", connectionsMax: CONNECTIONS });
  try {
    await migrate(sql);
    const auditSigner = await openAuditSigner({ stateDir, passphrase: null });
    options.say(`inserting ${ENTRIES} rows over ${CONNECTIONS} connections`);
    const insertedPerSecond = await rateOf(async () => await insertRows(sql));
    options.say("sealing");
    const sealedPerSecond = await rateOf(async () => await sealAll(sql, auditSigner));
    const file = join(stateDir, "log.jsonl");
    options.say("exporting");
    const exportedPerSecond = await rateOf(
      async () => await pipeline(exportAudit({ sql, auditSigner }, 0), createWriteStream(file)),
    );
    options.say("verifying");
    const verifiedPerSecond = await rateOf(async () => {
      const pieces = createReadStream(file, { encoding: "utf8", highWaterMark: 1 << 18 });
      const { problem, count } = await verifyAuditExport(linesOf(pieces), { publicKeys: [auditSigner.publicKey] });
      if (problem !== null || count !== ENTRIES) throw new Error(`${count} verified: ${problem?.message}`);
    });
    return {
      inserted_entries_per_s: insertedPerSecond,
      sealed_entries_per_s: sealedPerSecond,
      exported_entries_per_s: exportedPerSecond,
      verified_entries_per_s: verifiedPerSecond,
    };
  } finally {
    await sql.end({ timeout: 5 });
    await server.stop();
    await rm(stateDir, { recursive: true, force: true });
  }
}

async function rateOf(work: () => Promise<void>): Promise<number> {
  const openedMs = performance.now();
  await work();
  return Math.round((ENTRIES / (performance.now() - openedMs)) * 1000);
}

async function insertRows(sql: Sql): Promise<void> {
  const statements = ENTRIES / ROWS_A_STATEMENT / CONNECTIONS;
  await Promise.all(
    Array.from({ length: CONNECTIONS }, async (_, connection) => {
      for (let statement = 0; statement < statements; statement += 1) {
        await sql`
          insert into audit_log (actor, action, target_id, target_version, outcome, request_id, detail)
          select 'prn_01900000-0000-7000-8000-000000000001', 'allocation.active', ${`alc_${connection}_${statement}_`} || number,
            1, 'succeeded', 'req_' || number, jsonb_build_object('nodeId', 'node_' || number, 'gpus', number % 8, 'phase', 'ready')
          from generate_series(1, ${ROWS_A_STATEMENT}::int) number
        `;
      }
    }),
  );
}

async function sealAll(sql: Sql, auditSigner: AuditSigner): Promise<void> {
  let lastPosition = 0;
  while (lastPosition < ENTRIES)
    lastPosition = (await sealAudit({ sql, clock: systemClock, auditSigner }))?.lastPosition ?? 0;
}

/** Random changes to an export in memory; each must be found by a verifier that knows the key and the newest checkpoint. */
async function tamperOften({ runs, seed, say }: SuiteOptions): Promise<Record<string, number>> {
  const genuine = await makeGenuineExport(TAMPERED_ENTRIES, TAMPERED_CHECKPOINT_ENTRIES);
  const random = makeRandom(seed);
  const rounds = runs ?? TAMPERINGS;
  let missed = 0;
  for (let round = 1; round <= rounds; round += 1) {
    const { kind, lines } = await tamper(genuine, random);
    if ((await verifyLines(genuine, lines)).problem === null) {
      missed += 1;
      say(`missed in round ${round}: ${kind}`);
    }
    if (round % 1000 === 0) say(`${round} tamperings, ${missed} missed`);
  }
  return { tamperings: rounds, tamperings_missed: missed };
}
