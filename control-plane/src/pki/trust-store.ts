import { mkdir, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Sql, Tx } from "../db/sql.ts";
import { inTransaction } from "../db/transaction.ts";
import { readOrMakeFile } from "./key-files.ts";
import { findBundles, insertBundle } from "./store.ts";

/**
 * All trust bundles that ever were, by number. The last one says which authorities there are and what each does: there is no
 * other record of it.
 */
export interface TrustStore {
  /** Ascending. */
  read(): Promise<readonly StoredBundle[]>;
  /** False when the number is taken: somebody else rotated at the same moment. `record` writes with it what goes into the audit log. */
  append(bundle: StoredBundle, record?: (tx: Tx) => Promise<void>): Promise<boolean>;
}

export interface StoredBundle {
  readonly version: number;
  readonly jws: string;
}

/**
 * The database, which all replicas share, and the folder of the keys, which outlives a database that is restored from a backup:
 * what the one has forgotten is brought back from the other.
 */
export function makeTrustStore(sql: Sql, pkiFolder: string): TrustStore {
  const folder = join(pkiFolder, "trust");
  const path = (version: number): string => join(folder, `${version}.jws`);
  const keepFile = async (bundle: StoredBundle): Promise<void> =>
    void (await readOrMakeFile(path(bundle.version), () => bundle.jws));
  const readFiles = async (): Promise<StoredBundle[]> => {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const versions = (await readdir(folder)).flatMap((name) => /^(\d+)\.jws$/.exec(name)?.[1] ?? []).map(Number);
    return await Promise.all(
      versions
        .toSorted((a, b) => a - b)
        .map(async (version) => ({ version, jws: await readFile(path(version), "utf8") })),
    );
  };
  return {
    read: async () => {
      const known = await findBundles(sql);
      const last = known.at(-1)?.version ?? 0;
      for (const bundle of (await readFiles()).filter(({ version }) => version > last)) {
        await insertBundle(sql, bundle);
        known.push(bundle);
      }
      for (const bundle of known) await keepFile(bundle);
      return known;
    },
    append: async (bundle, record) => {
      const isFirst = await inTransaction(sql, async (tx) => {
        const inserted = await insertBundle(tx, bundle);
        if (inserted) await record?.(tx);
        return inserted;
      });
      if (isFirst) await keepFile(bundle);
      return isFirst;
    },
  };
}
