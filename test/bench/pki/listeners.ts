import { once } from "node:events";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect, createSecureContext } from "node:tls";
import { enrol } from "@hostler/node-agent/identity/enrol.ts";
import type { StoredIdentity } from "@hostler/node-agent/identity/identity-files.ts";
import { makeMemoryFiles } from "@hostler/node-agent/testing/memory-files.ts";
import { serverNameOf } from "@hostler/pki";
import { bootstrapTokenCreatedSchema } from "@hostler/shared/api/nodes.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { clientFor, startControlPlaneProgram } from "../../../deploy/demo/local-cloud.ts";
import { quantile } from "../../support/suite.ts";
import { rounded, throughput } from "./rounds.ts";

const ROUNDS = 5;
const ENROLMENTS = 40;
const HANDSHAKES = 150;
const AT_ONCE = 8;

/**
 * A real control plane with its PostgreSQL in processes of their own, and hosts that join it with the agent's own code: two
 * connections each, one to look at the pin and one for the proof. The client shares the machine with the server.
 */
export async function measureListeners(): Promise<{
  readonly enrolments_per_s: number;
  readonly mtls_handshakes_per_s: number;
}> {
  const folder = await mkdtemp(join(tmpdir(), "hostler-bench-"));
  await chmod(folder, 0o755);
  const plane = await startControlPlaneProgram({ stateDir: join(folder, "plane"), logPath: join(folder, "plane.log") });
  try {
    const operator = clientFor(plane.ready.publicUrl, plane.ready.firstOperatorKey ?? "");
    const tokens: string[] = [];
    while (tokens.length < (ROUNDS + 1) * ENROLMENTS) {
      const made = await operator.post("/api/ops/v1/bootstrap-tokens", {}, bootstrapTokenCreatedSchema);
      tokens.push(made.token);
    }
    const server = plane.ready.enrolUrl.replace("https://", "");
    const enrolWith = async (token: string): Promise<StoredIdentity> =>
      await enrol(
        { files: makeMemoryFiles(), clock: systemClock },
        { server, token, hostName: "bench", agentVersion: "bench" },
      );
    const identity = await enrolWith(tokens.pop() ?? "");
    const enrolments = await medianOfRounds(async () => {
      return await throughput(tokens.splice(0, ENROLMENTS), { atOnce: AT_ONCE, work: enrolWith });
    });
    const shake = handshaker(identity);
    const handshakes = await medianOfRounds(async () => {
      return await throughput(Array<null>(HANDSHAKES).fill(null), { atOnce: AT_ONCE, work: shake });
    });
    return { enrolments_per_s: rounded(enrolments), mtls_handshakes_per_s: rounded(handshakes) };
  } finally {
    await plane.program.stop();
    await rm(folder, { recursive: true, force: true });
  }
}

/** A new connection to the node listener up to the moment at which the server has taken the client's certificate. */
function handshaker({ identity, privateKeyPem }: StoredIdentity): () => Promise<void> {
  const { certificateChain, trustBundle, trustDomain, nodeListener } = identity;
  const secureContext = createSecureContext({
    key: privateKeyPem,
    cert: certificateChain,
    ca: trustBundle,
    minVersion: "TLSv1.3",
  });
  const [host = "", port = ""] = nodeListener.split(":");
  return async () => {
    const socket = connect({ host, port: Number(port), secureContext, servername: serverNameOf(trustDomain) });
    // In TLS 1.3 the client is done before the server is; the server's first word afterwards is its session message.
    await once(socket, "session");
    socket.destroy();
  };
}

async function medianOfRounds(measure: () => Promise<number>): Promise<number> {
  const rates: number[] = [];
  for (let round = 0; round < ROUNDS; round += 1) rates.push(await measure());
  return quantile(rates, 0.5);
}
