import { createPublicKey, X509Certificate } from "node:crypto";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { RotationStep } from "@hostler/shared/api/pki.ts";
import type { TaskClaims } from "@hostler/shared/tasks.ts";
import type { TrustBundle } from "@hostler/shared/trust.ts";
import {
  issueNodeLeaf,
  issueServerLeaf,
  makeP256Key,
  makeSerial,
  parseTrustBundle,
  pemOf,
  signTrustBundle,
} from "@hostler/pki";
import type { Tx } from "../db/sql.ts";
import type { TaskSigner } from "../signer/task-signer.ts";
import { lifeFrom, openAuthorityKeys, type AuthorityKeys, type AuthorityKeysOptions } from "./authority-keys.ts";
import type { CertificateAuthority } from "./certificate-authority.ts";
import { nextBundle } from "./rotation.ts";
import type { TrustStore } from "./trust-store.ts";

const DAY_MS = 86_400_000;
const SERVER_LIFE_MS = 30 * DAY_MS;
/** Nodes renew at half of it. */
export const NODE_CERTIFICATE_LIFE_MS = DAY_MS;

export interface Pki {
  readonly authority: CertificateAuthority;
  readonly trust: Trust;
  /** Signs with the active generation's task key, which another process holds. */
  signTask(claims: TaskClaims): Promise<string>;
  /** A fresh certificate for our own listeners: leaf, server CA and root, so that an agent can find its pin. */
  issueServerCertificate(): { readonly keyPem: string; readonly chainPem: string };
  /** Takes over what another replica rotated. True when there was something. */
  refresh(): Promise<boolean>;
  /** One step of a rotation; in force here when it resolves, on other replicas after their next refresh. */
  rotate(step: RotationStep, record: (tx: Tx, bundle: TrustBundle) => Promise<void>): Promise<void>;
}

export interface Trust {
  readonly bundle: TrustBundle;
  /** All bundles above this number, ascending, for a host to walk. */
  chainAfter(version: number): readonly string[];
}

export interface PkiOptions {
  readonly folder: string;
  readonly trustDomain: string;
  readonly passphrase: string | null;
  readonly clock: Clock;
  readonly store: TrustStore;
  readonly signer: TaskSigner;
}

/** What holds now: replaced whole by a rotation. */
interface PkiState {
  readonly chain: readonly string[];
  readonly bundle: TrustBundle;
  readonly active: AuthorityKeys;
  readonly highestGeneration: number;
  /** Public keys of every node CA that any bundle named. */
  readonly everyNodeAuthority: readonly X509Certificate[];
}

/**
 * Opens the certificate authorities: the newest trust bundle says which there are, the key folder has their keys. At a first
 * start both are made. Keys never leave the folder: the database holds none.
 */
export async function openPki(options: PkiOptions): Promise<Pki> {
  let state = await readState(options);
  const authority = makeAuthority(options, () => state);
  return {
    authority,
    trust: {
      get bundle() {
        return state.bundle;
      },
      chainAfter: (version) => state.chain.slice(version),
    },
    signTask: async (claims) => await options.signer.sign(state.active.generation, claims),
    issueServerCertificate: () => {
      const key = makeP256Key();
      const { servers, root } = state.active;
      const validity = lifeFrom(options.clock, SERVER_LIFE_MS);
      const { trustDomain } = options;
      const leaf = issueServerLeaf({ issuer: servers, publicKey: createPublicKey(key), trustDomain, validity });
      return {
        keyPem: key.export({ type: "pkcs8", format: "pem" }).toString(),
        chainPem: pemOf(leaf) + servers.pem + root.pem,
      };
    },
    refresh: async () => {
      const before = state.bundle.version;
      const next = await readState(options);
      if (next.bundle.version > before) state = next;
      return next.bundle.version > before;
    },
    rotate: async (step, record) => {
      state = await readState(options);
      const bundle = await nextBundle(state.bundle, step, {
        now: options.clock.now(),
        unused: state.highestGeneration + 1,
        open: async (generation) => await openGeneration(options, generation),
      });
      // A root that hosts trust already vouches for the next bundle.
      const jws = await signTrustBundle({ key: state.active.root.key, pin: state.active.root.pin }, bundle);
      const next = { version: bundle.version, jws };
      if (!(await options.store.append(next, async (tx) => await record(tx, bundle))))
        throw new AppError("conflict", {
          detail: "Somebody else rotates at this moment. Look at: hostler pki status.",
        });
      state = await readState(options);
    },
  };
}

/** Keys, certificates and task key of a generation, made when they are not there. */
async function openGeneration(
  options: AuthorityKeysOptions & { readonly signer: TaskSigner },
  generation: number,
): Promise<{ readonly keys: AuthorityKeys; readonly taskKey: Awaited<ReturnType<TaskSigner["publicKey"]>> }> {
  return { keys: await openAuthorityKeys(options, generation), taskKey: await options.signer.publicKey(generation) };
}

async function readState(options: PkiOptions): Promise<PkiState> {
  let stored = await options.store.read();
  if (stored.length === 0) {
    await makeFirstBundle(options);
    stored = await options.store.read();
  }
  const chain = stored.map(({ jws }) => jws);
  const bundles = chain.map(parseTrustBundle);
  const bundle = bundles.at(-1);
  const generation = bundle?.authorities.find(({ phase }) => phase === "active")?.generation;
  if (bundle === undefined || generation === undefined) throw new Error("a trust bundle has one active authority");
  const active = await openAuthorityKeys(options, generation);
  const pems = new Set(bundles.flatMap(({ authorities }) => authorities.map(({ nodeAuthority }) => nodeAuthority)));
  if (!pems.has(active.nodes.pem))
    throw new AppError("conflict", {
      detail: `The keys in ${options.folder} are not those of the trust bundles. Restore the whole folder from one backup.`,
    });
  const generations = bundles.flatMap(({ authorities }) => authorities.map((authority) => authority.generation));
  const highestGeneration = Math.max(...generations);
  return {
    chain,
    bundle,
    active,
    highestGeneration,
    everyNodeAuthority: [...pems].map((pem) => new X509Certificate(pem)),
  };
}

/** Replicas that start at the same moment agree on the one that the store took first. */
async function makeFirstBundle(options: PkiOptions): Promise<void> {
  const { keys, taskKey } = await openGeneration(options, 1);
  const bundle: TrustBundle = {
    version: 1,
    trustDomain: options.trustDomain,
    issuedAt: options.clock.now().toISOString(),
    authorities: [
      {
        generation: 1,
        phase: "active",
        root: keys.root.pem,
        nodeAuthority: keys.nodes.pem,
        serverAuthority: keys.servers.pem,
        taskKey,
      },
    ],
  };
  await options.store.append({ version: 1, jws: await signTrustBundle(keys.root, bundle) });
}

function makeAuthority(options: PkiOptions, state: () => PkiState): CertificateAuthority {
  const { trustDomain, clock } = options;
  return {
    trustDomain,
    get pin() {
      return state().active.root.pin;
    },
    get generation() {
      return state().active.generation;
    },
    get trustBundlePem() {
      return state()
        .bundle.authorities.map(({ root }) => root)
        .join("");
    },
    get nodeAuthorityPem() {
      return state()
        .bundle.authorities.map(({ nodeAuthority }) => nodeAuthority)
        .join("");
    },
    isTrusted: (generation) => state().bundle.authorities.some((authority) => authority.generation === generation),
    hasSigned: (certificate) =>
      state().everyNodeAuthority.some(
        (issuer) => certificate.checkIssued(issuer) && certificate.verify(issuer.publicKey),
      ),
    issueNodeCertificate: async ({ nodeId, publicKey }) => {
      const { nodes: issuer, generation } = state().active;
      const serial = makeSerial();
      const validity = lifeFrom(clock, NODE_CERTIFICATE_LIFE_MS);
      const leaf = issueNodeLeaf({ issuer, publicKey, trustDomain, nodeId, serial, validity });
      return await Promise.resolve({ serial, chainPem: pemOf(leaf) + issuer.pem, authority: generation, ...validity });
    },
  };
}
