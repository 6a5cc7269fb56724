import { join } from "node:path";
import { systemClock, type Clock } from "@hostler/shared/clock.ts";
import { openSigner } from "../signer/open-signer.ts";
import { openPki, type Pki } from "./open-pki.ts";
import type { StoredBundle, TrustStore } from "./trust-store.ts";

/** The authorities in a folder, with the task signer in this process. */
export async function openTestPki(options: {
  readonly stateDir: string;
  readonly store: TrustStore;
  readonly clock?: Clock;
  readonly passphrase?: string | null;
}): Promise<Pki> {
  const { stateDir, store, clock = systemClock, passphrase = null } = options;
  const signer = openSigner({ folder: join(stateDir, "signer"), passphrase, clock });
  return await openPki({
    folder: join(stateDir, "pki"),
    trustDomain: "test.internal",
    passphrase,
    clock,
    store,
    signer,
  });
}

/** Trust bundles in memory. */
export function makeMemoryTrustStore(): TrustStore {
  const bundles: StoredBundle[] = [];
  return {
    read: async () => [...bundles],
    append: async (bundle) => {
      if (bundles.some(({ version }) => version === bundle.version)) return false;
      bundles.push(bundle);
      return true;
    },
  };
}
