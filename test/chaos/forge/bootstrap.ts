import { createPublicKey, X509Certificate } from "node:crypto";
import type { TlsOptions } from "node:tls";
import { enrol } from "@hostler/node-agent/identity/enrol.ts";
import { makeMemoryFiles } from "@hostler/node-agent/testing/memory-files.ts";
import {
  formatBootstrapToken,
  issueNodeLeaf,
  issueServerLeaf,
  makeBootstrapToken,
  makeP256Key,
  pinOf,
} from "@hostler/pki";
import { systemClock } from "@hostler/shared/clock.ts";
import { newId } from "@hostler/shared/ids.ts";
import { NODE_PATHS } from "@hostler/shared/node-protocol.ts";
import { outcomeOf, type Attack } from "./attack.ts";
import { leakedBytes, openManInTheMiddle, type Plan } from "./man-in-the-middle.ts";
import { makeTwin, serverTlsOf } from "./node-listener.ts";
import { around, chainOf, pemOfKey, TRUST_DOMAIN, type Stage } from "./stage.ts";

const HOUR_MS = 3_600_000;
const NO_SERVER = ["service_unavailable"];
const STRANGER = ["pin_mismatch"];

/** Bytes of secrets that attackers heard, and whether the ear works at all. */
export interface Ear {
  leaked: number;
}

/** Somebody stands between a joining host and its control plane. Whatever they do, they hear nothing of the token's secret. */
export function bootstrapAttacks(stage: Stage, ear: Ear): Attack[] {
  const { authorities } = stage;
  const twin = makeTwin(authorities);
  const [ours, theirs] = [serverTlsOf(authorities), serverTlsOf(twin)];
  const attack = (
    name: string,
    expects: readonly string[],
    planOf: (connection: number) => Plan,
    isSlow = false,
  ): Attack => ({
    name: `man in the middle: ${name}`,
    expects,
    isSlow,
    run: async () => await enrolThrough(stage, ear, planOf),
  });
  const always = (plan: Plan) => (): Plan => plan;
  const terminate = (tls: TlsOptions): Plan => ({
    kind: "terminate",
    tls,
  });
  const lookedThenSwapped =
    (plan: Plan) =>
    (connection: number): Plan =>
      connection === 0 ? { kind: "forward", port: stage.enrolPort } : plan;
  return [
    attack("a self-signed certificate with our names", STRANGER, always(terminate(selfSigned(authorities)))),
    attack("another control plane with the same names", STRANGER, always(terminate(theirs))),
    attack(
      "another control plane of another domain",
      STRANGER,
      always(terminate(serverTlsOf(twin, { trustDomain: "other.internal" }))),
    ),
    attack("its own leaf, and our real chain appended", STRANGER, always(terminate(impostor(stage, "appended")))),
    attack("a leaf in our server CA's name, and our real chain", STRANGER, always(terminate(impostor(stage, "named")))),
    attack("an enrolled node plays server with its own certificate", STRANGER, always(terminate(nodeAsServer(stage)))),
    attack("our leaf without its chain", STRANGER, always(terminate({ ...ours, cert: firstOf(ours.cert, 1) }))),
    attack("our chain without its root", STRANGER, always(terminate({ ...ours, cert: firstOf(ours.cert, 2) }))),
    attack("our chain at the first look, its own at the second", STRANGER, lookedThenSwapped(terminate(theirs))),
    attack(
      "our chain at the first look, a self-signed one at the second",
      STRANGER,
      lookedThenSwapped(terminate(selfSigned(authorities))),
    ),
    attack(
      "our chain at the first look, plain HTTP at the second",
      NO_SERVER,
      lookedThenSwapped({ kind: "speak", bytes: "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}" }),
    ),
    attack(
      "a server that speaks no TLS",
      NO_SERVER,
      always({ kind: "speak", bytes: "220 mail.example.org ESMTP\r\n" }),
    ),
    attack(
      "a redirect in plain HTTP",
      NO_SERVER,
      always({
        kind: "speak",
        bytes: "HTTP/1.1 301 Moved\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
      }),
    ),
    attack(
      "a handshake cut in the middle",
      NO_SERVER,
      always({ kind: "forward", port: stage.enrolPort, replyBytesMax: 300 }),
    ),
    attack("a megabyte of noise", NO_SERVER, always({ kind: "speak", bytes: Buffer.alloc(1 << 20, 0x16) })),
    attack("a server of TLS 1.2 only", NO_SERVER, always(terminate({ ...theirs, maxVersion: "TLSv1.2" }))),
    attack(
      "a server certificate of ours that has ended",
      ["clock_skew"],
      always(terminate(serverTlsOf(authorities, { validity: around(-3 * HOUR_MS, -2 * HOUR_MS) }))),
    ),
    attack("a server that never answers", NO_SERVER, always({ kind: "speak", bytes: "" }), true),
    wrongControlPlane(stage, ear),
    redirect(stage, ear),
  ];
}

/**
 * The control: an agent that does talk to who the token names is heard in full by whoever has that key. Without it, silence
 * in the other captures would prove nothing.
 */
export async function proveThatTheEarWorks(): Promise<void> {
  const twin = makeTwin({ root: nobody("root"), nodes: nobody("nodes"), servers: nobody("servers") });
  const middle = await openManInTheMiddle(() => ({
    kind: "terminate",
    tls: serverTlsOf(twin),
    answer: "HTTP/1.1 500 x\r\n\r\n",
  }));
  const token = makeBootstrapToken(pinOf(new X509Certificate(twin.root.pem)));
  await outcomeOf(enrolAt(middle.address, formatBootstrapToken(token)));
  middle.close();
  if (leakedBytes(middle.heard(), token.secret) < 20) throw new Error("the capture does not hear what is surely said");
}

async function enrolThrough(stage: Stage, ear: Ear, planOf: (connection: number) => Plan): Promise<string> {
  const { token } = await stage.makeToken();
  const middle = await openManInTheMiddle(planOf);
  const outcome = await outcomeOf(enrolAt(middle.address, token));
  middle.close();
  return listen(ear, middle.heard(), token, outcome);
}

function listen(ear: Ear, heard: Buffer, token: string, outcome: string): string {
  const leaked = leakedBytes(heard, token.split(".")[2] ?? "");
  ear.leaked += leaked;
  return leaked === 0 ? outcome : `${leaked} bytes of the secret were heard`;
}

async function enrolAt(server: string, token: string): Promise<unknown> {
  const request = { server, token, hostName: "host", agentVersion: "test" };
  return await enrol({ files: makeMemoryFiles(), clock: systemClock }, request);
}

/** DNS or SNI leads to the real control plane of somebody else: the token is of another, and stays at home. */
function wrongControlPlane(stage: Stage, ear: Ear): Attack {
  return {
    name: "man in the middle: the name leads to a control plane that did not make the token",
    expects: STRANGER,
    run: async () => {
      const foreign = makeBootstrapToken(pinOf(new X509Certificate(makeTwin(stage.authorities).root.pem)));
      const middle = await openManInTheMiddle(() => ({ kind: "forward", port: stage.enrolPort }));
      const outcome = await outcomeOf(enrolAt(middle.address, formatBootstrapToken(foreign)));
      middle.close();
      return listen(ear, middle.heard(), formatBootstrapToken(foreign), outcome);
    },
  };
}

/** The pinned control plane itself, broken into, sends the host elsewhere: the proof is not said twice. */
function redirect(stage: Stage, ear: Ear): Attack {
  return {
    name: "man in the middle: a redirect under the pinned root leads to somebody else",
    expects: NO_SERVER,
    run: async () => {
      const { token } = await stage.makeToken();
      const elsewhere = await openManInTheMiddle(() => ({ kind: "terminate", tls: serverTlsOf(stage.authorities) }));
      const answer = `HTTP/1.1 307 Moved\r\nlocation: https://${elsewhere.address}${NODE_PATHS.enrol}\r\ncontent-length: 0\r\n\r\n`;
      const pinned = await openManInTheMiddle(() => ({
        kind: "terminate",
        tls: serverTlsOf(stage.authorities),
        answer,
      }));
      const outcome = await outcomeOf(enrolAt(pinned.address, token));
      pinned.close();
      elsewhere.close();
      return listen(ear, elsewhere.heard(), token, outcome);
    },
  };
}

function selfSigned(authorities: Stage["authorities"]): { readonly key: string; readonly cert: string } {
  const own = makeP256Key();
  const leaf = issueServerLeaf({
    issuer: { name: authorities.servers.name, key: own },
    publicKey: createPublicKey(own),
    trustDomain: TRUST_DOMAIN,
    validity: around(),
  });
  return { key: pemOfKey(own), cert: chainOf(leaf) };
}

/** The real chain is public: anybody may show it, with a leaf that is not below it. */
function impostor(stage: Stage, kind: "appended" | "named"): { readonly key: string; readonly cert: string } {
  const { root, servers } = stage.authorities;
  const own = makeP256Key();
  const leaf = issueServerLeaf({
    issuer: { name: kind === "named" ? servers.name : "impostor", key: makeP256Key() },
    publicKey: createPublicKey(own),
    trustDomain: TRUST_DOMAIN,
    validity: around(),
  });
  return { key: pemOfKey(own), cert: chainOf(leaf, servers.pem, root.pem) };
}

function nodeAsServer(stage: Stage): { readonly key: string; readonly cert: string } {
  const { root, nodes } = stage.authorities;
  const own = makeP256Key();
  const leaf = issueNodeLeaf({
    issuer: nodes,
    publicKey: createPublicKey(own),
    trustDomain: TRUST_DOMAIN,
    nodeId: newId("node", systemClock),
    serial: "40".repeat(16),
    validity: around(),
  });
  return { key: pemOfKey(own), cert: chainOf(leaf, nodes.pem, root.pem) };
}

function firstOf(chain: string, count: number): string {
  return chain
    .split(/(?<=-----END CERTIFICATE-----\n)/)
    .slice(0, count)
    .join("");
}

function nobody(name: string): Stage["authorities"]["root"] {
  return { name, key: makeP256Key(), pem: "" };
}
