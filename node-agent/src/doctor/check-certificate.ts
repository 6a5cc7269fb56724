import type { X509Certificate } from "node:crypto";
import { nodeIdOfAltName, parsePemChain } from "@hostler/pki";
import type { IdentityAnswer } from "@hostler/shared/node-protocol.ts";
import { ok, problem, skipped, warning, type Outcome } from "./finding.ts";
import { pathToRoot } from "./judge-server.ts";
import { enrolAgain, NO_IDENTITY, SET_CLOCK } from "./remedies.ts";
import type { Scene } from "./scene.ts";
import { spanText } from "./words.ts";

/** A renewal takes seconds and its retries minutes; later than that nobody does it. */
const OVERDUE_AFTER_MS = 5 * 60_000;

/** The node's certificate by itself: whose it is, from whom, and whether its time is now. */
export function checkCertificate(scene: Scene): readonly Outcome[] {
  if (scene.identity.state !== "present") return [skipped(NO_IDENTITY)];
  const { identity } = scene.identity.stored;
  const chain = chainOrNull(identity.certificateChain);
  const [leaf] = chain ?? [];
  if (chain === null || leaf === undefined) return [damaged(scene, "the certificate cannot be read")];
  const now = scene.deps.clock.now();
  const trouble = [
    ...checkName(scene, leaf, identity),
    ...checkChain(scene, chain, identity),
    ...checkTime(scene, leaf, now),
  ];
  const renewal = trouble.length > 0 ? [] : checkRenewal(scene, identity, now);
  if (trouble.length + renewal.length > 0) return [...trouble, ...renewal];
  const left = spanText(leaf.validToDate.getTime() - now.getTime());
  return [ok(`good for ${left} more, until ${leaf.validToDate.toISOString()}; renewal due ${identity.renewAt}`)];
}

/** The first certificate in a PEM text; null when there is none that can be read. */
export function leafOf(pem: string): X509Certificate | null {
  return chainOrNull(pem)?.[0] ?? null;
}

function checkName(scene: Scene, leaf: X509Certificate, identity: IdentityAnswer): readonly Outcome[] {
  const named = nodeIdOfAltName(leaf.subjectAltName, identity.trustDomain);
  if (named === identity.nodeId) return [];
  const whose = named === null ? "names no node of this cloud" : `is for ${named}`;
  return [damaged(scene, `the certificate ${whose}, the identity is ${identity.nodeId}`)];
}

function checkChain(scene: Scene, chain: readonly X509Certificate[], identity: IdentityAnswer): readonly Outcome[] {
  const roots = chainOrNull(identity.trustBundle);
  // A bundle that cannot be read is named by the check of trust.
  if (roots === null || pathToRoot(chain, roots) !== null) return [];
  return [damaged(scene, "the certificate does not lead to the root in the trust bundle")];
}

function checkTime(scene: Scene, leaf: X509Certificate, now: Date): readonly Outcome[] {
  const ago = now.getTime() - leaf.validToDate.getTime();
  const ahead = leaf.validFromDate.getTime() - now.getTime();
  if (ago >= 0)
    return [
      problem({
        text: `the certificate expired at ${leaf.validToDate.toISOString()}, ${spanText(ago)} ago by this host's clock`,
        matters: "the control plane refuses this node",
        remedy: `If the clock is wrong, set it (timedatectl set-ntp true). If it is right: ${enrolAgain(scene)}`,
      }),
    ];
  if (ahead <= 0) return [];
  return [
    problem({
      text: `the certificate begins at ${leaf.validFromDate.toISOString()}, ${spanText(ahead)} from now by this host's clock (${now.toISOString()})`,
      matters: "a certificate of the future is refused",
      remedy: SET_CLOCK,
    }),
  ];
}

function checkRenewal(scene: Scene, identity: IdentityAnswer, now: Date): readonly Outcome[] {
  const dueMs = new Date(identity.renewAt).getTime();
  if (Number.isNaN(dueMs)) return [damaged(scene, `'${identity.renewAt}' is no time for a renewal`)];
  const lateMs = now.getTime() - dueMs;
  if (lateMs < OVERDUE_AFTER_MS) return [];
  return [
    warning({
      text: `the renewal was due at ${identity.renewAt}, ${spanText(lateMs)} ago`,
      matters: `the certificate ends at ${identity.expiresAt}, and the node with it`,
      remedy:
        scene.agent === null
          ? "Start the agent, it renews by itself: systemctl start hostler-agent, or hostler-agent run"
          : "See what the renewal loop says below, and mend what is a problem here.",
    }),
  ];
}

function damaged(scene: Scene, text: string): Outcome {
  return problem({
    text,
    matters: "the control plane refuses this node",
    remedy: `Restore the identity from a backup. Without one: ${enrolAgain(scene)}`,
  });
}

function chainOrNull(pem: string): readonly X509Certificate[] | null {
  try {
    return parsePemChain(pem);
  } catch {
    // What OpenSSL says of broken DER tells nobody more than that it is broken.
    return null;
  }
}
