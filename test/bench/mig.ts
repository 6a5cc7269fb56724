import { migOfferOf } from "@hostler/node-agent/gpus/mig/mig-profile.ts";
import { recordedCards } from "@hostler/node-agent/gpus/mig/test-tables.ts";
import { planMig, type MigTable } from "@hostler/shared/mig/plan-mig.ts";
import { anyTable, anyTaken, EIGHT, TWELVE } from "@hostler/shared/mig/test-tables.ts";
import fc from "fast-check";
import { quantile, type Suite, type SuiteOptions, type SuiteOutcome } from "../support/suite.ts";

/** Cards that nobody has seen, beside the recorded and the made-up ones. */
const UNSEEN = 100;
const REQUESTS_OF_UNSEEN = 200;
const REQUESTS_OF_CARDS = 10_000;
/** As many instances as a card of today has at most. */
const INSTANCES_MAX = 7;

type Request = Parameters<typeof planMig>[1];

/** One plan is made under the lock of its card: whoever asks for the same card waits for it. */
export const migSuite: Suite = {
  about: "how long one plan for MIG instances takes, on recorded cards, on made-up ones, and on tables nobody has seen",
  run: async (options) => await measurePlans(options),
};

async function measurePlans({ say, seed }: SuiteOptions): Promise<SuiteOutcome> {
  const recorded = recordedCards().map(({ profiles }) => ({ profiles: profiles.map(migOfferOf) }));
  const unseen = fc.sample(anyTable, { numRuns: UNSEEN, seed });
  const cases = [
    ...[...recorded, EIGHT, TWELVE].map((table) => ({ table, requests: requestsOf(table, REQUESTS_OF_CARDS, seed) })),
    ...unseen.map((table) => ({ table, requests: requestsOf(table, REQUESTS_OF_UNSEEN, seed) })),
  ];
  say(`${recorded.length} recorded cards, 2 made-up ones, ${UNSEEN} tables that nobody has seen`);
  // What the first plans cost is the compiler's time.
  for (const { table, requests } of cases) for (const request of requests.slice(0, 50)) planMig(table, request);
  const times: number[] = [];
  const timesOfFound: number[] = [];
  for (const { table, requests } of cases)
    for (const request of requests) {
      const startedMs = performance.now();
      const plan = planMig(table, request);
      const tookUs = (performance.now() - startedMs) * 1000;
      times.push(tookUs);
      if (plan !== null) timesOfFound.push(tookUs);
    }
  return {
    figures: {
      plans: times.length,
      plans_found: timesOfFound.length,
      recorded_cards: recorded.length,
      found_p50_us: Math.round(quantile(timesOfFound, 0.5)),
      found_p99_us: Math.round(quantile(timesOfFound, 0.99)),
      found_p999_us: Math.round(quantile(timesOfFound, 0.999)),
      plan_p50_us: Math.round(quantile(times, 0.5)),
      plan_p999_us: Math.round(quantile(times, 0.999)),
      plan_max_us: Math.round(quantile(times, 1)),
    },
    targets: [
      { figure: "plan_p999_us", atMost: 1000 },
      { figure: "found_p999_us", atMost: 1000 },
    ],
  };
}

function requestsOf(table: MigTable, count: number, seed: number): readonly Request[] {
  const ids = table.profiles.map(({ id }) => id);
  const anyRequest = fc.record({
    wanted: fc.array(fc.constantFrom(...ids), { minLength: 1, maxLength: INSTANCES_MAX }),
    taken: fc.oneof(fc.constant([]), anyTaken(table)),
  });
  return fc.sample(anyRequest, { numRuns: count, seed });
}
