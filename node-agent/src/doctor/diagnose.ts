import { describeError } from "@hostler/shared/errors.ts";
import { checkAcceptance } from "./check-acceptance.ts";
import { checkAgent, checkLoops } from "./check-agent.ts";
import { checkCertificate } from "./check-certificate.ts";
import { checkClock } from "./check-clock.ts";
import { checkKvm, checkPrograms, checkTun } from "./check-host.ts";
import { checkEnrolled, checkKey, checkToken } from "./check-identity.ts";
import { checkDns, checkPorts } from "./check-network.ts";
import { checkServer } from "./check-server.ts";
import { checkStateFolder } from "./check-state-folder.ts";
import { checkTrust } from "./check-trust.ts";
import type { DoctorDeps } from "./doctor-deps.ts";
import { problem, type Finding, type Outcome } from "./finding.ts";
import { openScene, type DoctorRequest, type Scene } from "./scene.ts";

interface Check {
  readonly name: string;
  /** One outcome for each thing that it looks at; none when the check makes no sense here. Changes nothing. */
  look(scene: Scene): Promise<readonly Outcome[]> | readonly Outcome[];
}

/** From what is nearest to what is farthest, so that the first problem is likely the cause of those after it. */
const CHECKS: readonly Check[] = [
  { name: "state folder", look: checkStateFolder },
  { name: "enrolled", look: checkEnrolled },
  { name: "token", look: checkToken },
  { name: "key", look: checkKey },
  { name: "certificate", look: checkCertificate },
  { name: "trust", look: checkTrust },
  { name: "clock", look: checkClock },
  { name: "dns", look: checkDns },
  { name: "port", look: checkPorts },
  { name: "server", look: checkServer },
  { name: "accepted", look: checkAcceptance },
  { name: "programs", look: checkPrograms },
  { name: "kvm", look: checkKvm },
  { name: "tun", look: checkTun },
  { name: "agent", look: checkAgent },
  { name: "loops", look: checkLoops },
];

/**
 * Looks at this host and at its way to the control plane, and names what is wrong. Findings come as they are made. Changes
 * nothing, and runs beside a working agent. Throws `malformed_request` when `--server` is not host:port.
 */
export async function* diagnose(deps: DoctorDeps, request: DoctorRequest): AsyncGenerator<Finding> {
  const scene = await openScene(deps, request);
  try {
    for (const { name, look } of CHECKS) {
      for (const outcome of await lookSafely(look, scene)) yield { check: name, ...outcome };
    }
  } finally {
    for (const listener of scene.listeners) listener.close();
  }
}

/** A check that breaks is a finding: the others still have to be heard. */
async function lookSafely(look: Check["look"], scene: Scene): Promise<readonly Outcome[]> {
  try {
    return await look(scene);
  } catch (error) {
    return [
      problem({
        text: `the check itself failed: ${describeError(error)}`,
        matters: "what it looks at is unknown",
        remedy: "Report this line with the version of the agent (hostler-agent --version).",
      }),
    ];
  }
}
