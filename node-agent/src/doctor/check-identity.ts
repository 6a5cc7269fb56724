import { X509Certificate, type KeyObject } from "node:crypto";
import { join } from "node:path";
import { importPrivateKey, parseBootstrapToken } from "@hostler/pki";
import { ERRORS, isAppError } from "@hostler/shared/errors.ts";
import { IDENTITY_FILE } from "../identity/identity-files.ts";
import { ok, problem, skipped, type Outcome } from "./finding.ts";
import { enrolAgain, NO_IDENTITY } from "./remedies.ts";
import type { Scene } from "./scene.ts";

/** Whether this host is a node, and by a file that can be read. */
export function checkEnrolled(scene: Scene): readonly Outcome[] {
  const path = join(scene.stateDir, IDENTITY_FILE);
  const { identity, enrolment } = scene;
  switch (identity.state) {
    case "absent":
      return [enrolment === null ? notEnrolled(scene) : ok("not yet, and nothing here stands against it")];
    case "unreadable":
      return [
        problem({
          text: `${path} cannot be read (${identity.reason})`,
          matters: "the agent cannot say who it is",
          remedy: `Run this as the user that runs the agent (ls -l ${path}); after an I/O error look at the disk: dmesg | tail`,
        }),
      ];
    case "damaged":
      return [
        problem({
          text: `${path} is damaged: ${identity.reason}`,
          matters: "the agent cannot say who it is",
          remedy: `Restore the file from a backup. Without one: ${enrolAgain(scene)}`,
        }),
      ];
    case "present": {
      const { nodeId } = identity.stored.identity;
      if (enrolment === null) return [ok(`as ${nodeId}`)];
      const text = `this host is enrolled already as ${nodeId}`;
      return [problem({ text, matters: "enroll will refuse", remedy: enrolAgain(scene) })];
    }
  }
}

/** Whether the token that an enrolment would use has its form; it is looked at here and sent nowhere. */
export function checkToken(scene: Scene): readonly Outcome[] {
  if (scene.enrolment === null) return [];
  try {
    const { id } = parseBootstrapToken(scene.enrolment.token);
    return [ok(`${id} has its form; whether it is still good only an enrolment can tell`)];
  } catch (error) {
    if (!isAppError(error)) throw error;
    return [problem({ text: error.message, matters: "enroll will refuse it", remedy: ERRORS[error.code].remedy })];
  }
}

/** The private key: of the right kind, of this certificate, and nobody else's to read. */
export function checkKey(scene: Scene): readonly Outcome[] {
  const { identity } = scene;
  if (identity.state !== "present") return [skipped(NO_IDENTITY)];
  const key = keyOf(identity.stored.privateKeyPem);
  const damage = key === null ? "cannot be read" : isP256(key) ? null : "is not a P-256 key";
  if (key === null || damage !== null)
    return [
      problem({
        text: `the private key in ${IDENTITY_FILE} ${damage}`,
        matters: "the agent cannot prove who it is",
        remedy: `Restore the file from a backup. Without one: ${enrolAgain(scene)}`,
      }),
    ];
  const trouble = [
    ...checkFit(scene, key, identity.stored.identity.certificateChain),
    ...checkReaders(scene, identity),
  ];
  return trouble.length > 0 ? trouble : [ok("P-256, fits the certificate, private")];
}

function notEnrolled({ stateDir }: Scene): Outcome {
  return problem({
    text: `this host is not enrolled (no ${IDENTITY_FILE} in ${stateDir})`,
    matters: "it belongs to no cloud",
    remedy: `Enrol it: hostler-agent enroll --server HOST:7443 --token TOKEN (try first with doctor and the same words). If it is enrolled, run this as the user that runs the agent and with its HOSTLER_AGENT_STATE_DIR.`,
  });
}

function checkFit(scene: Scene, key: KeyObject, chain: string): readonly Outcome[] {
  let certificate;
  try {
    certificate = new X509Certificate(chain);
  } catch {
    // The next check names that.
    return [];
  }
  if (certificate.checkPrivateKey(key)) return [];
  return [
    problem({
      text: `the private key in ${IDENTITY_FILE} belongs to another certificate`,
      matters: "no connection to the control plane can be opened with the two",
      remedy: `Restore the whole file from one backup. Without one: ${enrolAgain(scene)}`,
    }),
  ];
}

function checkReaders(scene: Scene, { mode }: { readonly mode: number }): readonly Outcome[] {
  if ((mode & 0o077) === 0) return [];
  const path = join(scene.stateDir, IDENTITY_FILE);
  return [
    problem({
      text: `${path} is open to other users of this host (mode ${(mode & 0o777).toString(8).padStart(4, "0")})`,
      matters: "who reads the key can pose as this node",
      remedy: `chmod 600 ${path}. If somebody may have read it, revoke the node and enrol again.`,
    }),
  ];
}

function keyOf(pem: string): KeyObject | null {
  try {
    return importPrivateKey(pem, null);
  } catch {
    // OpenSSL's words for it help nobody, and they could quote the key.
    return null;
  }
}

function isP256(key: KeyObject): boolean {
  return key.asymmetricKeyType === "ec" && key.asymmetricKeyDetails?.namedCurve === "prime256v1";
}
