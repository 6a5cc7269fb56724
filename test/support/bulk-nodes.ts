import { createPublicKey } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { openAuthorityKeys } from "@hostler/control-plane/pki/authority-keys.ts";
import { makeSessionTokens } from "@hostler/control-plane/nodes/session-token.ts";
import type { Sql } from "@hostler/control-plane/db/sql.ts";
import { exportPrivateKey, issueNodeLeaf, keyThumbprint, makeP256Key, makeSerial, pemOf } from "@hostler/pki";
import { systemClock } from "@hostler/shared/clock.ts";
import { newId } from "@hostler/shared/ids.ts";

const BATCH = 500;
const DAY_MS = 86_400_000;

/** What a client needs to be one of many nodes. */
export interface BulkNode {
  readonly nodeId: string;
  readonly key: string;
  readonly chain: string;
  readonly session: string;
}

/** Writes many nodes with real certificates straight into the database: ten thousand enrolments would take a minute. */
export async function makeBulkNodes(
  plane: { readonly stateDir: string; readonly sql: Sql },
  count: number,
): Promise<{ readonly nodes: readonly BulkNode[]; readonly rootPem: string }> {
  const folder = join(plane.stateDir, "pki");
  const trustDomain = "hostler.internal";
  const keys = await openAuthorityKeys({ folder, trustDomain, passphrase: null, clock: systemClock }, 1);
  const sessionKey = await readFile(join(folder, "session.key"), "utf8");
  const sessions = makeSessionTokens(Buffer.from(sessionKey, "base64"));
  const validity = { notBefore: new Date(Date.now() - 60_000), notAfter: new Date(Date.now() + DAY_MS) };
  const made = Array.from({ length: count }, () => {
    const privateKey = makeP256Key();
    const nodeId = newId("node", systemClock);
    const serial = makeSerial();
    const publicKey = createPublicKey(privateKey);
    const leaf = issueNodeLeaf({ issuer: keys.nodes, publicKey, trustDomain, nodeId, serial, validity });
    const chain = pemOf(leaf) + keys.nodes.pem;
    const key = exportPrivateKey(privateKey, null);
    return { nodeId, serial, key, chain, thumbprint: keyThumbprint(privateKey), session: sessions.make(nodeId, 0) };
  });
  for (let at = 0; at < made.length; at += BATCH) await insertBatch(plane.sql, made.slice(at, at + BATCH), validity);
  return {
    nodes: made.map(({ nodeId, key, chain, session }) => ({ nodeId, key, chain, session })),
    rootPem: keys.root.pem,
  };
}

interface Made {
  readonly nodeId: string;
  readonly serial: string;
  readonly chain: string;
  readonly thumbprint: string;
}

async function insertBatch(
  sql: Sql,
  made: readonly Made[],
  validity: { notBefore: Date; notAfter: Date },
): Promise<void> {
  const ids = made.map((node) => node.nodeId);
  await sql.begin(async (tx) => {
    await tx`
      insert into nodes (id, name, state, protocol_version, agent_version)
      select id, id, 'enrolled', 2, 'bulk' from unnest(${ids}::text[]) as made (id)
    `;
    await tx`
      insert into events (id, aggregate_id, aggregate_version, topic, body)
      select 'evt_' || substr(id, 6), id, 1, 'node.enrolled', '{}' from unnest(${ids}::text[]) as made (id)
    `;
    await tx`
      insert into audit_log (actor, action, target_id, target_version, outcome)
      select 'system:bulk', 'node.enrolled', id, 1, 'succeeded' from unnest(${ids}::text[]) as made (id)
    `;
    await tx`
      insert into node_certificates (serial, node_id, generation, key_thumbprint, chain_pem, not_before, not_after, state, authority)
      select serial, id, 1, thumbprint, chain, ${validity.notBefore}, ${validity.notAfter}, 'active', 1
      from unnest(${made.map((node) => node.serial)}::text[], ${ids}::text[], ${made.map((node) => node.thumbprint)}::text[],
        ${made.map((node) => node.chain)}::text[]) as made (serial, id, thumbprint, chain)
    `;
  });
}

/** Makes new nodes ready, with room for one small slice of the mock driver each. */
export async function makeReady(sql: Sql, nodeIds: readonly string[]): Promise<void> {
  const ids = [...nodeIds];
  const drivers = [{ name: "mock", usable: true, accelerator: "none", note: "bulk" }];
  await sql.begin(async (tx) => {
    await tx`
      update nodes
      set state = 'ready', version = 2, vcpus_total = 1, memory_mib_total = 1024, drivers = ${tx.json(drivers)}
      where id = any(${ids})
    `;
    await tx`
      insert into events (id, aggregate_id, aggregate_version, topic, body)
      select 'evr_' || substr(id, 6), id, 2, 'node.ready', '{}' from unnest(${ids}::text[]) as made (id)
    `;
    await tx`
      insert into audit_log (actor, action, target_id, target_version, outcome)
      select 'system:bulk', 'node.ready', id, 2, 'succeeded' from unnest(${ids}::text[]) as made (id)
    `;
  });
}
