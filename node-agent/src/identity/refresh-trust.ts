import { followTrustChain, parsePemChain } from "@hostler/pki";
import type { TrustBundle } from "@hostler/shared/trust.ts";
import type { StateFiles } from "../ports/state-files.ts";
import { fetchTrustChain, parseServer } from "./enrol-listener.ts";
import { writeIdentity, type StoredIdentity } from "./identity-files.ts";

/**
 * Catches up with the rotations of the certificate authorities: walks the chain of signed bundles from what this host trusts to
 * the newest. Null when there is nothing newer. Rejects with `trust_chain_invalid` when the chain does not hold.
 */
export async function refreshTrust(
  files: StateFiles,
  current: StoredIdentity,
  signal: AbortSignal,
): Promise<StoredIdentity | null> {
  const { trustVersion, trustBundle } = current.identity;
  const chain = await fetchTrustChain(parseServer(current.server), trustVersion, signal);
  const roots = parsePemChain(trustBundle).map((root) => root.toString());
  const newest = await followTrustChain(chain, { version: trustVersion, roots });
  if (newest === null) return null;
  return await writeIdentity(files, { ...current, identity: { ...current.identity, ...trustOf(newest) } });
}

/** What an identity keeps of a bundle. */
export function trustOf(
  bundle: TrustBundle,
): Pick<StoredIdentity["identity"], "trustVersion" | "trustBundle" | "taskKeys"> {
  return {
    trustVersion: bundle.version,
    trustBundle: bundle.authorities.map((authority) => authority.root).join(""),
    taskKeys: { keys: bundle.authorities.map((authority) => authority.taskKey) },
  };
}
