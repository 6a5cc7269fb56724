import { createPrivateKey, X509Certificate, type KeyObject } from "node:crypto";
import { chmod, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ConnectionOptions } from "node:tls";
import type { ApiClient } from "@hostler/cli/api-client.ts";
import type { Sql } from "@hostler/control-plane/db/sql.ts";
import { makeSessionTokens } from "@hostler/control-plane/nodes/session-token.ts";
import { enrol } from "@hostler/node-agent/identity/enrol.ts";
import type { StoredIdentity } from "@hostler/node-agent/identity/identity-files.ts";
import { makeMemoryFiles } from "@hostler/node-agent/testing/memory-files.ts";
import { pemOf, serverNameOf, type Validity } from "@hostler/pki";
import { bootstrapTokenCreatedSchema, imageSchema, type BootstrapTokenCreated } from "@hostler/shared/api/nodes.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import {
  clientFor,
  prepareTenancy,
  startControlPlaneProgram,
  type LocalControlPlane,
} from "../../../deploy/demo/local-cloud.ts";
import { openEmbeddedDatabase } from "../../support/embedded-database.ts";
import { makeScriptedNode, type ScriptedNode } from "../../support/scripted-node.ts";
import { rememberSession } from "./ask.ts";

export const TRUST_DOMAIN = "hostler.internal";
const HOUR_MS = 3_600_000;

/** An authority with its key, as a thief of the state folder would have it. */
export interface StolenAuthority {
  readonly name: string;
  readonly key: KeyObject;
  readonly pem: string;
}

/** A real control plane in a process of its own, with its keys in the attacker's hands where an attack needs them. */
export interface Stage {
  readonly plane: LocalControlPlane;
  readonly operator: ApiClient;
  readonly projectId: string;
  readonly sql: Sql;
  readonly enrolPort: number;
  readonly nodePort: number;
  readonly enrolAddress: string;
  readonly authorities: Readonly<Record<"root" | "nodes" | "servers", StolenAuthority>>;
  /** Trusts the control plane, has no certificate. */
  readonly plainTls: ConnectionOptions;
  makeToken(body?: Readonly<Record<string, unknown>>): Promise<BootstrapTokenCreated>;
  /** A node that enrolled as a host does. */
  makeIdentity(): Promise<StoredIdentity>;
  makeNode(name: string, gpus: number): Promise<ScriptedNode>;
  /** Unexpected failures in the control plane's log so far. */
  unexpectedFailures(): Promise<string[]>;
  close(): Promise<void>;
}

export async function openStage(): Promise<Stage> {
  const folder = await mkdtemp(join(tmpdir(), "hostler-forge-"));
  await chmod(folder, 0o755);
  const [stateDir, logPath] = [join(folder, "plane"), join(folder, "plane.log")];
  const plane = await startControlPlaneProgram({ stateDir, logPath, env: { HOSTLER_TRUST_DOMAIN: TRUST_DOMAIN } });
  const { apiKey, projectId } = await prepareTenancy(
    clientFor(plane.ready.publicUrl, plane.ready.firstOperatorKey ?? ""),
  );
  const operator = clientFor(plane.ready.publicUrl, apiKey);
  await operator.upload("/api/ops/v1/images/tiny?format=raw", new Blob(["tiny"]), imageSchema);
  const sql = await openEmbeddedDatabase(stateDir);
  const authority = async (name: string): Promise<StolenAuthority> => await readAuthority(join(stateDir, "pki"), name);
  const authorities = {
    root: await authority("root"),
    nodes: await authority("node-ca"),
    servers: await authority("server-ca"),
  };
  const sessionKey = await readFile(join(stateDir, "pki/session.key"), "utf8");
  const sessionTokens = makeSessionTokens(Buffer.from(sessionKey, "base64"));
  const enrolAddress = plane.ready.enrolUrl.replace("https://", "");
  const nodes: ScriptedNode[] = [];
  const stage: Stage = {
    plane,
    operator,
    projectId,
    sql,
    enrolPort: portOf(plane.ready.enrolUrl),
    nodePort: portOf(plane.ready.nodeUrl),
    enrolAddress,
    authorities,
    plainTls: { ca: authorities.root.pem, servername: serverNameOf(TRUST_DOMAIN), minVersion: "TLSv1.3" },
    makeToken: async (body = {}) =>
      await operator.post("/api/ops/v1/bootstrap-tokens", body, bootstrapTokenCreatedSchema),
    makeIdentity: async () => {
      const { token } = await stage.makeToken();
      const request = { server: enrolAddress, token, hostName: "host", agentVersion: "test" };
      const stored = await enrol({ files: makeMemoryFiles(), clock: systemClock }, request);
      // Its agent never started: session 0, which only the control plane's key can make.
      rememberSession(stored, sessionTokens.make(stored.identity.nodeId, 0));
      return stored;
    },
    makeNode: async (name, gpus) => {
      const node = await makeScriptedNode({ operator, server: enrolAddress, folder, name, gpus });
      rememberSession(node.stored, node.session);
      nodes.push(node);
      return node;
    },
    unexpectedFailures: async () =>
      (await readFile(logPath, "utf8"))
        .split("\n")
        .filter((line) => /"level":"?(?:error|fatal|50|60)/.test(line))
        // The scripted hosts fall silent together when their part is over, and the control plane is right to say so.
        .filter((line) => !line.includes('"incidentId"')),
    close: async () => {
      for (const node of nodes) await node.close();
      await sql.end();
      await plane.program.stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
  return stage;
}

export function around(fromMs = -HOUR_MS, toMs = HOUR_MS): Validity {
  return { notBefore: new Date(Date.now() + fromMs), notAfter: new Date(Date.now() + toMs) };
}

export function chainOf(...certificates: readonly (Uint8Array | string)[]): string {
  return certificates.map((one) => (typeof one === "string" ? one : pemOf(one))).join("");
}

export function pemOfKey(key: KeyObject): string {
  return key.export({ type: "pkcs8", format: "pem" }).toString();
}

async function readAuthority(folder: string, name: string): Promise<StolenAuthority> {
  const pem = await readFile(join(folder, `${name}.pem`), "utf8");
  return {
    pem,
    name: new X509Certificate(pem).subject.replace("CN=", ""),
    key: createPrivateKey(await readFile(join(folder, `${name}.key`), "utf8")),
  };
}

function portOf(url: string): number {
  return Number(new URL(url).port);
}
