import type { Suite } from "../../support/suite.ts";
import { makeTally, runAttacks, type Attack, type Tally } from "./attack.ts";
import { bodyAttacks } from "./bodies.ts";
import { bootstrapAttacks, proveThatTheEarWorks } from "./bootstrap.ts";
import { gatherCrew, type Member } from "./crew.ts";
import { floodAttack } from "./flood.ts";
import { handshakeAttacks } from "./handshakes.ts";
import { matrixAttacks, terminalMatrixAttack } from "./matrix.ts";
import { mutateTasks } from "./mutations.ts";
import { nodeListenerAttacks } from "./node-listener.ts";
import { paramAttacks } from "./params.ts";
import { proofAttacks } from "./proofs.ts";
import { recoveryAttacks } from "./recoveries.ts";
import { renewalAttacks } from "./renewals.ts";
import { reportAttacks } from "./reports.ts";
import { afterwardsAttacks, forgeResult, postResult, resultAttacks } from "./results.ts";
import { slowAttacks } from "./slow.ts";
import { openStage, type Stage } from "./stage.ts";
import { openTaskDesk } from "./task-desk.ts";
import { taskAttacks } from "./tasks.ts";
import { tokenAttacks } from "./tokens.ts";

export interface ForgeOptions {
  readonly mutations: number;
  readonly seed: number;
  /** Also the classes that take long: hundreds of connections, and waiting for the server's patience to end. */
  readonly withSlow: boolean;
  say(line: string): void;
}

export interface ForgeOutcome {
  readonly tally: Tally;
  readonly mutatedTasks: number;
  readonly mutatedTasksAccepted: number;
  readonly secretBytesLeaked: number;
}

/** Forged certificates, proofs, tokens, tasks, results, bodies and params against real listeners and the real verifier. */
export const forgeSuite: Suite = {
  about: "forgeries of everything that two sides trust, each refused for the right reason",
  run: async ({ runs, seed, say }) => {
    const startedMs = performance.now();
    const outcome = await forge({ mutations: runs ?? 100_000, seed, withSlow: true, say });
    const { tally } = outcome;
    return {
      figures: {
        attack_classes: tally.classes,
        attacks_accepted: tally.accepted.length,
        wrong_refusals: tally.wrong.length,
        crashes: tally.crashes.length,
        mutated_tasks: outcome.mutatedTasks,
        mutated_tasks_accepted: outcome.mutatedTasksAccepted,
        secret_bytes_leaked: outcome.secretBytesLeaked,
        duration_s: Math.round((performance.now() - startedMs) / 1000),
      },
      targets: [
        { figure: "attack_classes", atLeast: 40 },
        { figure: "attacks_accepted", atMost: 0 },
        { figure: "wrong_refusals", atMost: 0 },
        { figure: "crashes", atMost: 0 },
        { figure: "mutated_tasks", atLeast: runs ?? 100_000 },
        { figure: "mutated_tasks_accepted", atMost: 0 },
        { figure: "secret_bytes_leaked", atMost: 0 },
      ],
    };
  },
};

/** Runs every class once and the mutations, and gives what came of them. */
export async function forge(options: ForgeOptions): Promise<ForgeOutcome> {
  const { seed, say } = options;
  const tally = makeTally();
  const ear = { leaked: 0 };
  await proveThatTheEarWorks();
  const desk = openTaskDesk();
  const stage = await openStage();
  try {
    const run = async (title: string, attacks: readonly Attack[]): Promise<void> => {
      const chosen = attacks.filter((attack) => options.withSlow || attack.isSlow !== true);
      await runAttacks(chosen, tally, say);
      say(`${title}: ${chosen.length} classes`);
    };
    await attackIdentity(stage, ear, run);
    const crew = await attackTasks(stage, run);
    await run("tasks", taskAttacks(desk));
    await run("params", paramAttacks());
    const [first] = crew;
    if (first === undefined) throw new Error("there is no good node");
    const slowIdentity = await stage.makeIdentity();
    // The last to enrol: afterwards this address was refused too often.
    await run("floods", [floodAttack(stage, first.node, say)]);
    const slow = run("slow connections", slowAttacks(stage, slowIdentity, first.node));
    const mutated = await mutateTasks(desk, { runs: options.mutations, seed, say });
    await slow;
    for (const sample of mutated.samples) say(`mutated task: ${sample}`);
    tally.crashes.push(...(await stage.unexpectedFailures()), ...Array<string>(mutated.crashes).fill("mutated task"));
    for (const crash of tally.crashes) say(`crash: ${crash}`);
    return {
      tally,
      mutatedTasks: mutated.tried,
      mutatedTasksAccepted: mutated.accepted,
      secretBytesLeaked: ear.leaked,
    };
  } finally {
    await stage.close();
  }
}

type Run = (title: string, attacks: readonly Attack[]) => Promise<void>;

/** Who may join, and who is who. */
async function attackIdentity(stage: Stage, ear: { leaked: number }, run: Run): Promise<void> {
  const victim = await stage.makeIdentity();
  await run("node certificates", nodeListenerAttacks(stage, victim));
  await run("handshakes", handshakeAttacks(stage, victim));
  await run("enrol proofs", proofAttacks(stage));
  await run("tokens", tokenAttacks(stage));
  await run("renewals", renewalAttacks(stage, await stage.makeIdentity(), victim));
  await run("recoveries", recoveryAttacks(stage, victim));
  await run("bodies", bodyAttacks(stage, victim));
  await run("men in the middle", bootstrapAttacks(stage, ear));
}

/** Who may say what about which work. */
async function attackTasks(stage: Stage, run: Run): Promise<readonly Member[]> {
  const crew = await gatherCrew(stage);
  await run("every node on every other", matrixAttacks(stage, crew));
  await run("results", resultAttacks(stage, crew));
  await run("reports", reportAttacks(stage, crew));
  for (const { node, task } of crew.slice(1)) {
    const outcome = await postResult(stage, node, { taskId: task.claims.jti, jws: forgeResult(node, task, {}) });
    if (outcome !== "accepted") throw new Error(`a true result was refused: ${outcome}`);
  }
  await run("results afterwards", afterwardsAttacks(stage, crew));
  await run("terminals", [terminalMatrixAttack(stage, crew)]);
  return crew;
}
