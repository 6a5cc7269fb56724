import { X509Certificate } from "node:crypto";
import { AppError } from "@hostler/shared/errors.ts";
import type { IdentityAnswer } from "@hostler/shared/node-protocol.ts";
import { keyThumbprint, nodeIdOfAltName, verifyRecoverProof, verifyRenewProof } from "@hostler/pki";
import { insertAuditRow } from "../audit/store.ts";
import { refusedTopic } from "../db/wake-bus.ts";
import type { Tx } from "../db/sql.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Deps } from "../deps.ts";
import type { EnrolDeps } from "./enrol-node.ts";
import { freezeNode } from "./freeze-node.ts";
import { identityAnswer } from "./identity-answer.ts";
import { countRecovery, findNewestCertificate, lockRecovery, type RecoveryRecord } from "./recovery-store.ts";
import { findCertificateByKey, insertCertificate, supersedeOlder } from "./store.ts";

export type RecoverDeps = EnrolDeps & Pick<Deps, "wake">;

/** A recovery whose proofs hold: the node, its last certificate and the key that it goes on with. */
interface Recovery {
  readonly nodeId: string;
  readonly last: X509Certificate;
  readonly lastKey: string;
  readonly newKey: string;
  readonly publicKey: Parameters<RecoverDeps["pki"]["authority"]["issueNodeCertificate"]>[0]["publicKey"];
  readonly requestId: string;
}

/**
 * A host that was away for longer than its certificate, or than the CA that signed it, comes back by proving its last key. It is
 * counted, limited and audited. What we signed is believed even when the database, restored from a backup, has forgotten it. An
 * older key than the last one means a copy of the disk: the node is frozen.
 */
export async function recoverNode(
  deps: RecoverDeps,
  request: { readonly proof: string; readonly requestHost: string; readonly requestId: string },
): Promise<IdentityAnswer> {
  const recovery = await readProof(deps, request);
  const chainPem = await inTransaction(deps.sql, async (tx) => await recoverInTransaction(deps, tx, recovery)).catch(
    async (error: unknown) => {
      if (error instanceof AppError) await auditRefusal(deps, recovery, error);
      throw error;
    },
  );
  if (chainPem === null) {
    deps.wake.wake(refusedTopic(recovery.nodeId));
    throw new AppError("node_frozen");
  }
  return identityAnswer(deps.pki, { chainPem, nodeListener: deps.nodeListenerFor(request.requestHost) });
}

async function readProof(
  deps: RecoverDeps,
  request: { readonly proof: string; readonly requestId: string },
): Promise<Recovery> {
  const { authority } = deps.pki;
  const { claims, publicKey: lastKey } = await verifyRecoverProof(request.proof);
  const { claims: renewal, publicKey } = await verifyRenewProof(claims.renewal);
  const last = parseCertificate(claims.certificate);
  const isOfNode = nodeIdOfAltName(last.subjectAltName, authority.trustDomain) === claims.nodeId;
  const isOfKey = keyThumbprint(last.publicKey) === keyThumbprint(lastKey);
  if (!isOfNode || !isOfKey || !authority.hasSigned(last))
    throw new AppError("certificate_untrusted", {
      detail: "The last certificate is not one that we issued to this key.",
    });
  if (renewal.nodeId !== claims.nodeId || renewal.replacesSerial !== last.serialNumber)
    throw new AppError("proof_invalid", { detail: "The new key's proof is for another node or another certificate." });
  return {
    nodeId: claims.nodeId,
    last,
    lastKey: keyThumbprint(lastKey),
    newKey: keyThumbprint(publicKey),
    publicKey,
    requestId: request.requestId,
  };
}

async function auditRefusal(deps: RecoverDeps, { nodeId, last, requestId }: Recovery, error: AppError): Promise<void> {
  const row = { actor: `node:${nodeId}`, action: "node.recover", targetId: nodeId, targetVersion: null } as const;
  const detail = { code: error.code, last: last.serialNumber };
  await insertAuditRow(deps.sql, { ...row, outcome: "refused", requestId, detail });
}

/** Null when the node was frozen: that must be committed. */
async function recoverInTransaction(deps: RecoverDeps, tx: Tx, recovery: Recovery): Promise<string | null> {
  const { nodeId, requestId } = recovery;
  const record = await lockRecovery(tx, nodeId);
  if (record === undefined)
    throw new AppError("certificate_untrusted", { detail: "There is no such node here: enrol the host again." });
  if (record.state === "revoked" || record.state === "retired") throw new AppError("node_revoked");
  if (record.state === "frozen") throw new AppError("node_frozen");
  // The answer to an earlier try, or to a renewal, got lost.
  const known = await findCertificateByKey(tx, recovery.newKey);
  if (known?.nodeId === nodeId && known.state === "active") return known.chainPem;
  if (known !== undefined) throw new AppError("proof_invalid", { detail: "The new key had a certificate before." });
  if (await isCopy(tx, recovery, record)) {
    const reason = `Two holders: a recovery came with certificate ${recovery.last.serialNumber}, which was replaced.`;
    await freezeNode(tx, deps.clock, { nodeId, actor: `node:${nodeId}`, reason, requestId });
    return null;
  }
  await refuseGoodCertificate(deps, tx, recovery);
  if (record.recoveries >= record.limit)
    throw new AppError("recovery_limit", {
      detail: `It came back ${record.recoveries} times since it last renewed in the ordinary way; ${record.limit} are allowed.`,
    });
  const certificate = await deps.pki.authority.issueNodeCertificate({ nodeId, publicKey: recovery.publicKey });
  const generation = await insertCertificate(tx, { nodeId, keyThumbprint: recovery.newKey, certificate });
  await supersedeOlder(tx, nodeId, generation);
  await countRecovery(tx, nodeId);
  await insertAuditRow(tx, {
    actor: `node:${nodeId}`,
    action: "node.recovered",
    targetId: nodeId,
    targetVersion: null,
    outcome: "succeeded",
    requestId,
    detail: { serial: certificate.serial, last: recovery.last.serialNumber, recoveries: record.recoveries + 1 },
  });
  return certificate.chainPem;
}

/** Whether a newer certificate than the one shown was in use: then the right holder has that one. */
async function isCopy(tx: Tx, recovery: Recovery, record: RecoveryRecord): Promise<boolean> {
  if (record.isRestoreExpected) return false;
  const shown = await findCertificateByKey(tx, recovery.lastKey);
  if (shown !== undefined) return shown.nodeId !== recovery.nodeId || shown.state !== "active";
  // Unknown to a database that was restored from a backup: then it is newer than all that the database knows.
  const newest = await findNewestCertificate(tx, recovery.nodeId);
  return newest !== undefined && recovery.last.validFromDate < newest.notBefore;
}

/** A thief of the disk shall not take a running host's place: while its certificate is good, it renews over mTLS. */
async function refuseGoodCertificate(deps: RecoverDeps, tx: Tx, { last, lastKey }: Recovery): Promise<void> {
  const shown = await findCertificateByKey(tx, lastKey);
  if (shown === undefined || shown.notAfter <= deps.clock.now() || !deps.pki.authority.isTrusted(shown.authority))
    return;
  throw new AppError("conflict", { detail: `Certificate ${last.serialNumber} is still good: renew it over mTLS.` });
}

function parseCertificate(pem: string): X509Certificate {
  try {
    return new X509Certificate(pem);
  } catch (error) {
    throw new AppError("proof_invalid", { detail: "The last certificate cannot be read.", cause: error });
  }
}
