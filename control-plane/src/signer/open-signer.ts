import type { KeyObject } from "node:crypto";
import { join } from "node:path";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { makeEd25519Key, publicJwk, signTask } from "@hostler/pki";
import { readOrMakeKey } from "../pki/key-files.ts";
import { makeSigningPolicy } from "./policy.ts";
import type { TaskSigner } from "./task-signer.ts";

/** Generations that a signer makes keys for: a bound on what whoever asks can make it write. */
const GENERATIONS_MAX = 10_000;

/** The signer itself: keys in files of its own folder, one a generation, and the policy before each signature. */
export function openSigner(options: {
  readonly folder: string;
  readonly passphrase: string | null;
  readonly clock: Clock;
}): TaskSigner {
  const { folder, passphrase } = options;
  const judge = makeSigningPolicy(options.clock);
  const keys = new Map<number, Promise<{ readonly key: KeyObject; readonly kid: string }>>();
  const open = async (generation: number): Promise<{ readonly key: KeyObject; readonly kid: string }> => {
    if (!Number.isInteger(generation) || generation < 1 || generation > GENERATIONS_MAX)
      throw new AppError("signing_refused", { detail: `${generation} is no generation of task keys.` });
    const key = await readOrMakeKey(join(folder, `task-signing-${generation}.key`), {
      passphrase,
      make: makeEd25519Key,
    });
    return { key, kid: publicJwk(key).kid };
  };
  const keyOf = async (generation: number): Promise<{ readonly key: KeyObject; readonly kid: string }> => {
    const opened = keys.get(generation) ?? open(generation);
    keys.set(generation, opened);
    return await opened.catch((error: unknown) => {
      keys.delete(generation);
      throw error;
    });
  };
  return {
    sign: async (generation, claims) => {
      const { key, kid } = await keyOf(generation);
      judge(claims);
      return signTask(key, kid, claims);
    },
    publicKey: async (generation) => {
      const { kid, kty, crv, x } = publicJwk((await keyOf(generation)).key);
      return { kid, kty, crv, x };
    },
  };
}
