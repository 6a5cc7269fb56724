import { createPublicKey, X509Certificate, type KeyObject } from "node:crypto";
import type { StoredIdentity } from "@hostler/node-agent/identity/identity-files.ts";
import {
  issueIntermediate,
  issueNodeLeaf,
  issueRoot,
  issueServerLeaf,
  makeP256Key,
  makeSerial,
  spiffeIdOf,
} from "@hostler/pki";
import { nodeSchema } from "@hostler/shared/api/nodes.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { newId } from "@hostler/shared/ids.ts";
import type { Attack } from "./attack.ts";
import { pollWith, tlsOf } from "./ask.ts";
import { forgeCertificate, leafExtensions } from "./forged-certificate.ts";
import { around, chainOf, pemOfKey, TRUST_DOMAIN, type Stage, type StolenAuthority } from "./stage.ts";

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

/** What a node leaf is made of, with whatever is wrong about it. */
interface LeafOptions {
  readonly issuer: { readonly name: string; readonly key: KeyObject };
  readonly trustDomain: string;
  readonly nodeId: string;
  readonly serial: string;
  readonly validity: ReturnType<typeof around>;
}

/** Certificates that are not this node's, or not a node's, shown to the node listener. */
export function nodeListenerAttacks(stage: Stage, victim: StoredIdentity): Attack[] {
  const { root, nodes, servers } = stage.authorities;
  const serial = new X509Certificate(victim.identity.certificateChain).serialNumber;
  const { nodeId } = victim.identity;
  const own = makeP256Key();
  const key = pemOfKey(own);
  const leafOf = (options: Partial<LeafOptions> = {}): Buffer =>
    issueNodeLeaf({
      issuer: nodes,
      trustDomain: TRUST_DOMAIN,
      nodeId,
      serial,
      validity: around(),
      publicKey: createPublicKey(own),
      ...options,
    });
  const show = async (...chain: readonly (Uint8Array | string)[]): Promise<string> =>
    await pollWith(stage, { key, cert: chainOf(...chain) });
  const untrusted = (name: string, run: () => Promise<string>): Attack => ({
    name: `node certificate: ${name}`,
    expects: ["certificate_untrusted"],
    run,
  });
  const stranger = { name: nodes.name, key: makeP256Key() };
  const otherPlane = makeTwin(stage.authorities);
  return [
    { name: "node certificate: none", expects: ["certificate_missing"], run: async () => await pollWith(stage, {}) },
    untrusted("self-signed", async () => await show(leafOf({ issuer: { name: nodeId, key: own } }))),
    untrusted("of a stranger under our authority's name", async () => await show(leafOf({ issuer: stranger }))),
    untrusted(
      "of a stranger, with our authority in its chain",
      async () => await show(leafOf({ issuer: stranger }), nodes.pem, root.pem),
    ),
    untrusted(
      "of another control plane with the same names",
      async () => await show(leafOf({ issuer: otherPlane.nodes }), otherPlane.nodes.pem, otherPlane.root.pem),
    ),
    untrusted("signed by our server CA", async () => await show(leafOf({ issuer: servers }), servers.pem)),
    untrusted("signed by our root itself", async () => await show(leafOf({ issuer: root }))),
    untrusted(
      "a serial that we never issued, signed by our node CA",
      async () => await show(leafOf({ serial: makeSerial() }), nodes.pem),
    ),
    untrusted(
      "the serial and name of a node on another key, signed by our node CA",
      async () => await show(leafOf(), nodes.pem),
    ),
    untrusted(
      "the name of another node on a known serial",
      async () => await show(leafOf({ nodeId: newId("node", systemClock) }), nodes.pem),
    ),
    untrusted("of another trust domain", async () => await show(leafOf({ trustDomain: "other.internal" }), nodes.pem)),
    untrusted("our node CA itself as a client", async () => await showAuthority(stage, nodes)),
    untrusted("our server's certificate as a client", async () => {
      const leaf = issueServerLeaf({
        issuer: servers,
        publicKey: createPublicKey(own),
        trustDomain: TRUST_DOMAIN,
        validity: around(),
      });
      return await show(leaf, servers.pem);
    }),
    untrusted("a node's key as an authority", async () => await showChildOf(stage, victim)),
    {
      name: "node certificate: expired",
      expects: ["certificate_expired"],
      run: async () => await show(leafOf({ validity: around(-2 * DAY_MS, -DAY_MS) }), nodes.pem),
    },
    {
      name: "node certificate: not yet valid",
      expects: ["certificate_not_yet_valid"],
      run: async () => await show(leafOf({ validity: around(DAY_MS, 2 * DAY_MS) }), nodes.pem),
    },
    ...forgedLeafAttacks(stage, { nodeId, serial }),
    ...stateAttacks(stage),
  ];
}

/** Leaves with other extensions than we give, signed by our own node CA with the serial of a living certificate. */
function forgedLeafAttacks(stage: Stage, victim: { readonly nodeId: string; readonly serial: string }): Attack[] {
  const { nodes } = stage.authorities;
  const own = makeP256Key();
  const url = { type: "url", value: spiffeIdOf(TRUST_DOMAIN, victim.nodeId) } as const;
  const variants: readonly (readonly [string, Parameters<typeof leafExtensions>[0]])[] = [
    ["without any purpose", { names: [url], purposes: [] }],
    ["for servers only", { names: [url], purposes: ["server"] }],
    ["for any purpose", { names: [url], purposes: ["any"] }],
    ["with two node names", { names: [url, { ...url, value: `${url.value.slice(0, -1)}0` }], purposes: ["client"] }],
    ["with a DNS name beside its own", { names: [url, { type: "dns", value: "x.org" }], purposes: ["client"] }],
    ["with its name as DNS", { names: [{ type: "dns", value: url.value }], purposes: ["client"] }],
    ["with a name in its subject only", { names: [], purposes: ["client"] }],
    ["with a longer name", { names: [{ ...url, value: `${url.value}/admin` }], purposes: ["client"] }],
    ["with a comma in its name", { names: [{ ...url, value: `${url.value}, URI:spiffe://x` }], purposes: ["client"] }],
    ["that may sign others", { names: [url], purposes: ["client"], isAuthority: true }],
  ];
  return variants.map(([name, extensions]) => ({
    name: `node certificate: ${name}`,
    expects: ["certificate_untrusted"],
    run: async () => {
      const leaf = await forgeCertificate({
        issuer: nodes,
        publicKey: own,
        subject: victim.nodeId,
        serial: victim.serial,
        validity: around(),
        extensions: leafExtensions(extensions),
      });
      return await pollWith(stage, { key: pemOfKey(own), cert: chainOf(leaf, nodes.pem) });
    },
  }));
}

/** Good certificates whose time is over by our records. */
function stateAttacks(stage: Stage): Attack[] {
  return [
    {
      name: "node certificate: of a revoked node",
      expects: ["node_revoked"],
      run: async () => {
        const stored = await stage.makeIdentity();
        await stage.operator.post(`/api/ops/v1/nodes/${stored.identity.nodeId}/revoke`, {}, nodeSchema);
        return await pollWith(stage, tlsOf(stored));
      },
    },
    {
      name: "node certificate: replaced by a newer one",
      expects: ["certificate_inactive"],
      run: async () => {
        const stored = await stage.makeIdentity();
        await stage.sql`update node_certificates set state = 'superseded' where node_id = ${stored.identity.nodeId}`;
        return await pollWith(stage, tlsOf(stored));
      },
    },
  ];
}

/** The attacker signs a child with the key of an enrolled node and shows the whole chain. */
async function showChildOf(stage: Stage, parent: StoredIdentity): Promise<string> {
  const own = makeP256Key();
  const child = issueNodeLeaf({
    issuer: { name: parent.identity.nodeId, key: parent.privateKey },
    publicKey: createPublicKey(own),
    trustDomain: TRUST_DOMAIN,
    nodeId: newId("node", systemClock),
    serial: makeSerial(),
    validity: around(),
  });
  return await pollWith(stage, { key: pemOfKey(own), cert: chainOf(child, parent.identity.certificateChain) });
}

async function showAuthority(stage: Stage, authority: StolenAuthority): Promise<string> {
  return await pollWith(stage, { key: pemOfKey(authority.key), cert: authority.pem });
}

/** A control plane of the attacker's with every name of ours and keys of its own. */
export function makeTwin(ours: Stage["authorities"]): Stage["authorities"] {
  const fresh = (name: string): { name: string; key: KeyObject } => ({ name, key: makeP256Key() });
  const root = fresh(ours.root.name);
  const below = (name: string): StolenAuthority => {
    const subject = fresh(name);
    return { ...subject, pem: chainOf(issueIntermediate({ root, subject, validity: around() })) };
  };
  return {
    root: { ...root, pem: chainOf(issueRoot(root, around())) },
    nodes: below(ours.nodes.name),
    servers: below(ours.servers.name),
  };
}

/** A server's key and chain under these authorities. */
export function serverTlsOf(
  authorities: Pick<Stage["authorities"], "root" | "servers">,
  options: { readonly validity?: ReturnType<typeof around>; readonly trustDomain?: string } = {},
): { readonly key: string; readonly cert: string } {
  const key = makeP256Key();
  const { validity = around(), trustDomain = TRUST_DOMAIN } = options;
  const leaf = issueServerLeaf({
    issuer: authorities.servers,
    publicKey: createPublicKey(key),
    trustDomain,
    validity,
  });
  return { key: pemOfKey(key), cert: chainOf(leaf, authorities.servers.pem, authorities.root.pem) };
}
