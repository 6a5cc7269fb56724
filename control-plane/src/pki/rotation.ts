import { AppError } from "@hostler/shared/errors.ts";
import type { RotationStep } from "@hostler/shared/api/pki.ts";
import type { Authority, TrustBundle } from "@hostler/shared/trust.ts";
import type { AuthorityKeys } from "./authority-keys.ts";

/**
 * A rotation, step by step. Hosts trust the next generation before anything of it is shown to them, and the last one until
 * nothing of it is in use:
 *
 *   active(n)
 *     ─prepare─► active(n), prepared(n+1)      hosts learn of n+1
 *     ─issue──► outgoing(n), active(n+1)       servers show n+1, hosts renew to it
 *     ─retire─► active(n+1)                    what n signed counts no more
 *
 * `rollback` goes one step back: a prepared generation is dropped, an outgoing one signs again and the other goes out.
 */
type Step = (authorities: readonly Authority[], generations: Generations) => Authority[] | Promise<Authority[]>;

interface Generations {
  readonly now: Date;
  /** One that no bundle ever named: the keys of a generation that was rolled back are not used again. */
  readonly unused: number;
  /** Makes or opens the keys of a generation. */
  open(generation: number): Promise<{ readonly keys: AuthorityKeys; readonly taskKey: Authority["taskKey"] }>;
}

/** The bundle after a step. Rejects with `conflict` when the step does not fit where the rotation stands. */
export async function nextBundle(
  bundle: TrustBundle,
  step: RotationStep,
  generations: Generations,
): Promise<TrustBundle> {
  const authorities = await STEPS[step](bundle.authorities, generations);
  return { ...bundle, version: bundle.version + 1, issuedAt: generations.now.toISOString(), authorities };
}

const STEPS: Readonly<Record<RotationStep, Step>> = {
  prepare: async (authorities, generations) => {
    if (authorities.length > 1) throw conflict("A rotation is in progress already.");
    return [...authorities, await preparedAuthority(generations)];
  },
  issue: (authorities) => {
    if (!has(authorities, "prepared")) throw conflict("There is no prepared generation: prepare one first.");
    return authorities.map((authority) => ({
      ...authority,
      phase: authority.phase === "prepared" ? "active" : "outgoing",
    }));
  },
  retire: (authorities) => {
    if (!has(authorities, "outgoing")) throw conflict("No generation is going out: there is nothing to retire.");
    return authorities.filter((authority) => authority.phase !== "outgoing");
  },
  rollback: (authorities) => {
    if (has(authorities, "prepared")) return authorities.filter((authority) => authority.phase !== "prepared");
    if (!has(authorities, "outgoing")) throw conflict("No rotation is in progress: there is nothing to roll back.");
    return authorities.map((authority) => ({
      ...authority,
      phase: authority.phase === "outgoing" ? "active" : "outgoing",
    }));
  },
};

async function preparedAuthority(generations: Generations): Promise<Authority> {
  const { keys, taskKey } = await generations.open(generations.unused);
  return {
    generation: generations.unused,
    phase: "prepared",
    root: keys.root.pem,
    nodeAuthority: keys.nodes.pem,
    serverAuthority: keys.servers.pem,
    taskKey,
  };
}

function has(authorities: readonly Authority[], phase: Authority["phase"]): boolean {
  return authorities.some((authority) => authority.phase === phase);
}

function conflict(detail: string): AppError {
  return new AppError("conflict", { detail: `${detail} Look at: hostler pki status.` });
}
