import { AppError, type ErrorCode } from "@hostler/shared/errors.ts";
import { newId } from "@hostler/shared/ids.ts";
import {
  CLOCK_SKEW_MS_MAX,
  PROTOCOL_VERSION,
  PROTOCOL_VERSION_MIN,
  type EnrolClaims,
  type IdentityAnswer,
} from "@hostler/shared/node-protocol.ts";
import { keyThumbprint, secretMatches, verifyEnrolProof } from "@hostler/pki";
import type { KeyObject } from "node:crypto";
import { recordChange } from "../audit/record-change.ts";
import { insertAuditRow } from "../audit/store.ts";
import type { Tx } from "../db/sql.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Deps } from "../deps.ts";
import type { Pki } from "../pki/open-pki.ts";
import type { AuditBudget } from "./audit-budget.ts";
import { identityAnswer } from "./identity-answer.ts";
import { findCertificateByKey, insertCertificate, insertNode, type CertificateRow } from "./store.ts";
import { lockToken, markTokenUsed, type TokenRow } from "./token-store.ts";

export interface EnrolDeps extends Pick<Deps, "sql" | "clock"> {
  readonly pki: Pki;
  /** Host and port of the node listener for a host that reached us as `requestHost`. */
  nodeListenerFor(requestHost: string): string;
}

/** Refusals of somebody who has not shown a token's secret: anybody can cause them, as often as he likes. */
const STRANGERS_CODES: ReadonlySet<ErrorCode> = new Set([
  "bootstrap_token_unknown",
  "clock_skew",
  "protocol_unsupported",
]);

/**
 * Turns a token and a key into a node. One transaction holds the token's row, so a hundred uses at once make one node. The
 * same key answers with the same certificate, with the same token (a lost answer burns nothing) or with a new one that the
 * operator made because the first seemed lost. Each refusal has its code and leaves an audit row; those of
 * strangers share a budget of rows.
 */
export async function enrolNode(
  deps: EnrolDeps,
  request: {
    readonly proof: string;
    readonly requestHost: string;
    readonly requestId: string;
    readonly auditBudget: AuditBudget;
  },
): Promise<IdentityAnswer> {
  const { claims, publicKey } = await verifyEnrolProof(request.proof);
  try {
    refuseOtherVersions(claims);
    refuseSkewedClock(claims, deps.clock.now());
    const chainPem = await inTransaction(
      deps.sql,
      async (tx) => await useToken(tx, deps, { claims, publicKey, requestId: request.requestId }),
    );
    return identityAnswer(deps.pki, { chainPem, nodeListener: deps.nodeListenerFor(request.requestHost) });
  } catch (error) {
    const isStranger = error instanceof AppError && STRANGERS_CODES.has(error.code);
    const spent = isStranger ? request.auditBudget.spend() : { omitted: 0 };
    if (error instanceof AppError && spent !== null) {
      const omitted = spent.omitted === 0 ? {} : { omittedBefore: spent.omitted };
      const detail = { code: error.code, hostName: claims.hostName, ...omitted };
      const row = {
        actor: `token:${claims.tokenId}`,
        action: "node.enrol",
        targetId: claims.tokenId,
        targetVersion: null,
        outcome: "refused",
      } as const;
      await insertAuditRow(deps.sql, { ...row, requestId: request.requestId, detail });
    }
    throw error;
  }
}

async function useToken(
  tx: Tx,
  deps: EnrolDeps,
  request: { readonly claims: EnrolClaims; readonly publicKey: KeyObject; readonly requestId: string },
): Promise<string> {
  const { claims, publicKey } = request;
  const thumbprint = keyThumbprint(publicKey);
  const token = await lockToken(tx, claims.tokenId);
  if (token === undefined || !secretMatches(claims.tokenSecret, token.secretHash))
    throw new AppError("bootstrap_token_unknown");
  const issued = await findCertificateByKey(tx, thumbprint);
  if (token.usedByKey === thumbprint && issued !== undefined && issued.state !== "revoked") return issued.chainPem;
  refuseUselessToken(token, claims, thumbprint);
  if (issued !== undefined) {
    refuseSpentKey(issued, deps.clock.now());
    await markTokenUsed(tx, { id: token.id, keyThumbprint: thumbprint, nodeId: issued.nodeId });
    await insertAuditRow(tx, {
      actor: `token:${token.id}`,
      action: "node.enrolled_again",
      targetId: issued.nodeId,
      targetVersion: null,
      outcome: "succeeded",
      requestId: request.requestId,
      detail: { keyThumbprint: thumbprint },
    });
    return issued.chainPem;
  }
  const nodeId = newId("node", deps.clock);
  const certificate = await deps.pki.authority.issueNodeCertificate({ nodeId, publicKey });
  await insertNode(tx, {
    id: nodeId,
    name: claims.hostName,
    protocolVersion: claims.protocolVersion,
    agentVersion: claims.agentVersion,
  });
  await insertCertificate(tx, { nodeId, keyThumbprint: thumbprint, certificate });
  await markTokenUsed(tx, { id: token.id, keyThumbprint: thumbprint, nodeId });
  await recordChange(tx, deps.clock, {
    actor: `token:${token.id}`,
    topic: "node.enrolled",
    targetId: nodeId,
    targetVersion: 1,
    projectId: null,
    requestId: request.requestId,
    body: { hostName: claims.hostName, serial: certificate.serial, keyThumbprint: thumbprint },
  });
  return certificate.chainPem;
}

function refuseUselessToken(token: TokenRow, claims: EnrolClaims, thumbprint: string): void {
  if (token.usedByKey !== null) throw new AppError("bootstrap_token_used");
  if (token.revokedAt !== null) throw new AppError("bootstrap_token_revoked");
  if (token.isExpired) throw new AppError("bootstrap_token_expired");
  if (token.hostName !== null && token.hostName !== claims.hostName) {
    throw new AppError("permission_denied", {
      detail: `This token is for the host ${token.hostName}; this host calls itself ${claims.hostName}.`,
    });
  }
  if (token.keyThumbprint !== null && token.keyThumbprint !== thumbprint) {
    throw new AppError("permission_denied", {
      detail: `This token is for the key ${token.keyThumbprint}; this host's key is ${thumbprint}.`,
    });
  }
}

/** A key has one certificate in its life. One that is of no use any more cannot be asked for again. */
function refuseSpentKey(issued: CertificateRow, now: Date): void {
  if (issued.state === "active" && issued.notAfter > now) return;
  throw new AppError("proof_invalid", {
    detail: `This key had a certificate as ${issued.nodeId} that is of no use any more. Run the same command again: it makes a new key.`,
  });
}

function refuseOtherVersions(claims: EnrolClaims): void {
  if (claims.protocolVersion >= PROTOCOL_VERSION_MIN && claims.protocolVersion <= PROTOCOL_VERSION) return;
  throw new AppError("protocol_unsupported", {
    detail: `The agent speaks version ${claims.protocolVersion}; this control plane speaks ${PROTOCOL_VERSION_MIN} to ${PROTOCOL_VERSION}.`,
  });
}

function refuseSkewedClock(claims: EnrolClaims, now: Date): void {
  const offsetMs = claims.iat * 1000 - now.getTime();
  if (Math.abs(offsetMs) <= CLOCK_SKEW_MS_MAX) return;
  const direction = offsetMs > 0 ? "ahead of" : "behind";
  throw new AppError("clock_skew", {
    detail: `The host's clock is ${Math.round(Math.abs(offsetMs) / 1000)} s ${direction} the control plane's (${now.toISOString()}).`,
    facts: { offsetMs, serverTime: now.toISOString() },
  });
}
