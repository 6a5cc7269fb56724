import { X509Certificate } from "node:crypto";
import type { PkiStatus, RotationStep } from "@hostler/shared/api/pki.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { pinOf } from "@hostler/pki";
import { insertAuditRow } from "../audit/store.ts";
import { EVERYTHING } from "../db/wake-bus.ts";
import type { Deps } from "../deps.ts";
import { countTrust } from "../nodes/count-trust.ts";
import type { Pki } from "./open-pki.ts";

export interface RotateDeps extends Pick<Deps, "sql" | "clock" | "wake"> {
  readonly pki: Pki;
  /** Shows new server certificates and trusts new node CAs, on this replica. */
  applyTrust(): void;
}

/** Where a rotation stands, and which online hosts the next step waits for. */
export async function readPkiStatus(deps: Pick<RotateDeps, "sql" | "pki" | "applyTrust">): Promise<PkiStatus> {
  // Another replica may have taken a step just now: hosts that are ready for the one before are not ready for the next.
  if (await deps.pki.refresh()) deps.applyTrust();
  const { bundle } = deps.pki.trust;
  const active = deps.pki.authority.generation;
  const nodes = await countTrust(deps.sql, { trustVersion: bundle.version, authority: active });
  return {
    trustVersion: bundle.version,
    authorities: bundle.authorities.map(({ generation, phase, root }) => {
      const certificate = new X509Certificate(root);
      return { generation, phase, pin: pinOf(certificate), expiresAt: certificate.validToDate.toISOString() };
    }),
    nodes,
  };
}

/**
 * One step of a rotation. A step that would lock out an online host is refused unless forced; hosts that are away never hold a
 * rotation up, because they come back by their last key and the chain of trust bundles.
 */
export async function rotateAuthorities(
  deps: RotateDeps,
  request: { readonly step: RotationStep; readonly force: boolean; readonly actor: string; readonly requestId: string },
): Promise<PkiStatus> {
  const before = await readPkiStatus(deps);
  if (!request.force) refuseUnready(before, request.step);
  await deps.pki.rotate(request.step, async (tx, { version, authorities }) => {
    await insertAuditRow(tx, {
      actor: request.actor,
      action: `pki.${request.step}`,
      targetId: `trust-bundle-${version}`,
      targetVersion: null,
      outcome: "succeeded",
      requestId: request.requestId,
      detail: {
        force: request.force,
        authorities: authorities.map(({ generation, phase }) => ({ generation, phase })),
      },
    });
  });
  deps.applyTrust();
  // Every waiting poll is answered with the new number, on every replica.
  deps.wake.wake(EVERYTHING);
  return await readPkiStatus(deps);
}

function refuseUnready(status: PkiStatus, step: RotationStep): void {
  const { online, withNewestTrust, onActiveAuthority, waitingFor } = status.nodes;
  const ready = { prepare: online, issue: withNewestTrust, retire: onActiveAuthority, rollback: online }[step];
  if (ready >= online) return;
  const names = waitingFor.slice(0, 5).map(({ name, reason }) => `${name} (${reason})`);
  throw new AppError("conflict", {
    detail: `${online - ready} of ${online} online hosts are not ready for ${step}: ${names.join(", ")}. Wait, or force it.`,
  });
}
