import { AppError } from "@hostler/shared/errors.ts";
import type { IdentityAnswer } from "@hostler/shared/node-protocol.ts";
import { keyThumbprint, verifyRenewProof } from "@hostler/pki";
import { insertAuditRow } from "../audit/store.ts";
import { inTransaction } from "../db/transaction.ts";
import { nodeTopic } from "../db/wake-bus.ts";
import type { Deps } from "../deps.ts";
import type { AuthenticatedNode } from "../http/node-env.ts";
import type { EnrolDeps } from "./enrol-node.ts";
import { identityAnswer } from "./identity-answer.ts";
import { forgetRecoveries } from "./recovery-store.ts";
import { findCertificateByKey, insertCertificate, lockNodeState } from "./store.ts";

/**
 * A new certificate for a new key of a node that is who it says by its old one. The old certificate stays good until the new
 * one is seen in use, so a lost answer locks nobody out; asking again with the same key gives the same certificate.
 */
export async function renewCertificate(
  deps: EnrolDeps & Pick<Deps, "wake">,
  request: {
    readonly node: AuthenticatedNode;
    readonly proof: string;
    readonly requestHost: string;
    readonly requestId: string;
  },
): Promise<IdentityAnswer> {
  const { claims, publicKey } = await verifyRenewProof(request.proof);
  if (claims.nodeId !== request.node.id || claims.replacesSerial !== request.node.certificateSerial) {
    throw new AppError("proof_invalid", {
      detail: "The proof names another node or another certificate than the one in use.",
    });
  }
  const thumbprint = keyThumbprint(publicKey);
  const chainPem = await inTransaction(deps.sql, async (tx) => {
    // The node's row serialises renewals, so that generations rise by one.
    await lockNodeState(tx, request.node.id);
    const known = await findCertificateByKey(tx, thumbprint);
    if (known?.nodeId === request.node.id && known.state === "active") return known.chainPem;
    if (known !== undefined)
      throw new AppError("proof_invalid", { detail: "This key had a certificate before. A renewal brings a new key." });
    const certificate = await deps.pki.authority.issueNodeCertificate({ nodeId: request.node.id, publicKey });
    await insertCertificate(tx, { nodeId: request.node.id, keyThumbprint: thumbprint, certificate });
    await forgetRecoveries(tx, request.node.id);
    const row = {
      actor: `node:${request.node.id}`,
      action: "node.certificate_renewed",
      targetId: request.node.id,
      targetVersion: null,
      outcome: "succeeded",
    } as const;
    await insertAuditRow(tx, {
      ...row,
      requestId: request.requestId,
      detail: { serial: certificate.serial, replaces: request.node.certificateSerial },
    });
    return certificate.chainPem;
  });
  // A poll that waits under the old certificate ends, so that its connection can be let go.
  deps.wake.wake(nodeTopic(request.node.id));
  return identityAnswer(deps.pki, { chainPem, nodeListener: deps.nodeListenerFor(request.requestHost) });
}
