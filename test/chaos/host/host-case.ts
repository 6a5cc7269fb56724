import type { FailureClass } from "@hostler/shared/states.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import { waitFor } from "../../support/wait-for.ts";
import { watchHeartbeats } from "./heartbeats.ts";
import { retriesOf, type HostFailure } from "./host-failures.ts";
import type { Driver, Stage } from "./stage.ts";

/** A fault of the host, and what must come of it. */
export interface HostCase {
  readonly name: string;
  readonly driver: Driver;
  readonly image?: string;
  plant(stage: Stage): Promise<void>;
  /** While the slice is on its way up: faults that come later. */
  strike?(stage: Stage, allocationId: string): Promise<void>;
  /** What the programs' own healing does not mend. */
  heal?(stage: Stage): Promise<void>;
  readonly expected: Expectation;
  /** The agent must go on being heard while the fault lasts. */
  readonly isHang?: boolean;
}

export type Expectation =
  /** The slice's way up ends, undone; with this class it does not come again by itself on this host. */
  | {
      readonly end: "failed";
      readonly class: Exclude<FailureClass, "transient">;
      readonly code: string;
      readonly words: readonly RegExp[];
    }
  /** The host says that it may pass; the control plane tries again, and once the fault is gone the slice is up. */
  | { readonly end: "tried again"; readonly code: string; readonly words: readonly RegExp[] }
  /** The phase tries again by itself and says why; or its task does, where the fault fell between two phases. */
  | { readonly end: "active"; readonly words: readonly RegExp[] };

export interface HostCaseOutcome {
  /** Empty is right. */
  readonly faults: readonly string[];
  readonly leaks: readonly string[];
  /** What the operator read. */
  readonly sentence: string;
  readonly class: string;
  /** Between two signs of the agent, ms; null where it was not watched. */
  readonly heartbeatGapMs: number | null;
  readonly tookMs: number;
}

const TIMEOUT_MS = 300_000;

/** Plants the fault, asks for a slice, reads what the operator reads, mends the host, and looks whether all is as before. */
export async function runHostCase(stage: Stage, wanted: HostCase): Promise<HostCaseOutcome> {
  const startedMs = systemClock.monotonicMs();
  const heartbeats = wanted.isHang === true ? watchHeartbeats(stage) : null;
  let id: string | null = null;
  try {
    await wanted.plant(stage);
    id = await stage.request(wanted.driver, { image: wanted.image });
    await wanted.strike?.(stage, id);
    const failure = await firstEnd(stage, id, wanted.expected);
    const heartbeatGapMs = (await heartbeats?.stop()) ?? null;
    const faults = judge(wanted.expected, failure);
    await mend(stage, wanted);
    faults.push(...(await endOf(stage, id, wanted.expected)));
    const leaks = await leaksOf(stage, id);
    faults.push(...(await nextSlice(stage, wanted)));
    const { message, class: failureClass } = failure;
    const tookMs = Math.round(systemClock.monotonicMs() - startedMs);
    return { faults, leaks, sentence: message, class: failureClass, heartbeatGapMs, tookMs };
  } catch (error) {
    await heartbeats?.stop();
    await mend(stage, wanted).catch(() => "Said below what went wrong first.");
    const told = id === null ? "" : JSON.stringify(await stage.failures(id));
    if (id !== null) await stage.release(id).catch(() => "The same.");
    const tookMs = Math.round(systemClock.monotonicMs() - startedMs);
    return {
      faults: [`${describeError(error)} ${told}`],
      leaks: [],
      sentence: "",
      class: "",
      heartbeatGapMs: null,
      tookMs,
    };
  }
}

async function mend(stage: Stage, wanted: HostCase): Promise<void> {
  await stage.programs.heal();
  await wanted.heal?.(stage);
}

/** The first failure that the host told, or that the slice is up with what was said on the way. */
async function firstEnd(stage: Stage, id: string, expected: Expectation): Promise<HostFailure> {
  return await waitFor(
    `${expected.end} of the slice`,
    async () => {
      const failure = (await stage.failures(id)).at(-1);
      if (failure !== undefined) return failure;
      if ((await stage.state(id)) !== "active") return undefined;
      const message = (await retriesOf(stage.sql, id)).join(" | ");
      return { code: "", class: "none", phase: null, message, leftovers: [] };
    },
    { timeoutMs: TIMEOUT_MS, everyMs: 100 },
  );
}

function judge(expected: Expectation, failure: HostFailure): string[] {
  const classes = classesOf(expected);
  const missing = expected.words.filter((word) => !word.test(failure.message));
  return [
    ...(classes.includes(failure.class) ? [] : [`class ${failure.class} instead of ${classes.join(" or ")}`]),
    ...("code" in expected && failure.code !== expected.code
      ? [`code ${failure.code} instead of ${expected.code}`]
      : []),
    ...missing.map((word) => `the sentence lacks ${String(word)}`),
    ...failure.leftovers.map((left) => `not undone: ${left}`),
  ];
}

/** `none`: the slice was up without a failure that the control plane heard of. */
function classesOf(expected: Expectation): readonly string[] {
  switch (expected.end) {
    case "failed":
      return [expected.class];
    case "tried again":
      return ["transient"];
    case "active":
      return ["none", "transient"];
  }
}

/** The slice's end once the host is well: gone, or up and then given back. */
async function endOf(stage: Stage, id: string, expected: Expectation): Promise<string[]> {
  const state = await waitFor(
    "the slice's end",
    async () => {
      const found = await stage.state(id);
      return found === "active" || found === "failed" ? found : undefined;
    },
    { timeoutMs: TIMEOUT_MS, everyMs: 100 },
  );
  const right = expected.end === "failed" ? "failed" : "active";
  const faults = state === right ? [] : [`ended ${state} instead of ${right}`];
  if (state === "active") await stage.release(id);
  return faults;
}

/** What is there a moment after the end is no leak: a program that was killed at its deadline may take two seconds. */
async function leaksOf(stage: Stage, id: string): Promise<string[]> {
  let leaks = await stage.leftovers(id);
  const isClean = async (): Promise<boolean> => {
    leaks = await stage.leftovers(id);
    return leaks.length === 0;
  };
  await waitFor("a clean host", isClean, { timeoutMs: 8000, everyMs: 250 }).catch(() => "The leaks tell.");
  return leaks;
}

/** The same host takes the next slice; a machine is not waited for until its guest is up. */
async function nextSlice(stage: Stage, { driver }: HostCase): Promise<string[]> {
  const id = await stage.request(driver);
  const isUp = async (): Promise<boolean> =>
    (await stage.state(id)) === "active" || (driver === "qemu" && (await stage.isInPhase(id, "guest_ready")));
  try {
    await waitFor("the next slice", isUp, { timeoutMs: 60_000, everyMs: 100 });
  } catch (error) {
    return [`${describeError(error)}: ${JSON.stringify(await stage.failures(id))}`];
  } finally {
    await stage.release(id);
  }
  return [];
}
