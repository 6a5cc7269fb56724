import { createPublicKey } from "node:crypto";
import { join } from "node:path";
import { openAuthorityKeys } from "@hostler/control-plane/pki/authority-keys.ts";
import type { Sql } from "@hostler/control-plane/db/sql.ts";
import { readIdentity, writeIdentity } from "@hostler/node-agent/identity/identity-files.ts";
import { makeDiskFiles } from "@hostler/node-agent/journal/disk-files.ts";
import { issueNodeLeaf, keyThumbprint, makeP256Key, makeSerial, pemOf } from "@hostler/pki";
import { systemClock } from "@hostler/shared/clock.ts";

const HOUR_MS = 3_600_000;

/**
 * Makes a host that was off for long: its newest certificate, on its disk and in the database, is a real one of our CA that ended
 * an hour ago. Nobody's clock has to be turned for it.
 */
export async function expireIdentity(
  plane: { readonly stateDir: string; readonly sql: Sql; readonly trustDomain?: string },
  host: { readonly stateDir: string; readonly authority?: number },
): Promise<void> {
  const { trustDomain = "hostler.internal" } = plane;
  const files = makeDiskFiles(host.stateDir);
  const stored = await readIdentity(files);
  if (stored === null) throw new Error(`${host.stateDir} has no identity`);
  const generation = host.authority ?? 1;
  const keys = await openAuthorityKeys(
    { folder: join(plane.stateDir, "pki"), trustDomain, passphrase: null, clock: systemClock },
    generation,
  );
  const privateKey = makeP256Key();
  const publicKey = createPublicKey(privateKey);
  const serial = makeSerial();
  const { nodeId } = stored.identity;
  const [notBefore, notAfter] = [new Date(Date.now() - 25 * HOUR_MS), new Date(Date.now() - HOUR_MS)];
  const validity = { notBefore, notAfter };
  const chain =
    pemOf(issueNodeLeaf({ issuer: keys.nodes, publicKey, trustDomain, nodeId, serial, validity })) + keys.nodes.pem;
  await plane.sql`
    update node_certificates set state = 'superseded' where node_id = ${nodeId}
  `;
  await plane.sql`
    insert into node_certificates (serial, node_id, generation, key_thumbprint, chain_pem, not_before, not_after, state, authority)
    select ${serial}, ${nodeId}, max(generation) + 1, ${keyThumbprint(privateKey)}, ${chain}, ${notBefore}, ${notAfter}, 'active', ${generation}
    from node_certificates where node_id = ${nodeId}
  `;
  const identity = { ...stored.identity, certificateChain: chain, expiresAt: notAfter.toISOString() };
  await writeIdentity(files, { ...stored, privateKey, identity });
}
