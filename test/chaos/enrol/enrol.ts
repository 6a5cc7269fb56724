import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { readIdentity } from "@hostler/node-agent/identity/identity-files.ts";
import { makeDiskFiles } from "@hostler/node-agent/journal/disk-files.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { X509Certificate } from "node:crypto";
import { startProgram, type Program } from "../../../deploy/demo/program.ts";
import { makeRandom, type Suite, type SuiteOptions, type SuiteOutcome } from "../../support/suite.ts";
import { startSuitePlanes, type SuitePlanes } from "../../support/suite-planes.ts";

const AGENT = fileURLToPath(new URL("../../../node-agent/src/main.ts", import.meta.url));
const RENEW_ONCE = fileURLToPath(new URL("./renew-once.ts", import.meta.url));
const RUNS = 300;
const TRIES_MAX = 8;
const never = new AbortController().signal;

/** Whom a run kills, and in what. */
const KINDS = [
  "agent in enrolment",
  "agent in renewal",
  "control plane in enrolment",
  "control plane in renewal",
] as const;
type Kind = (typeof KINDS)[number];

export const enrolSuite: Suite = {
  about:
    "either side is killed at a random instant of an enrolment or a renewal; one valid identity comes of it, always",
  run: async (options) => await killWhileJoining({ ...options, runs: options.runs ?? RUNS }),
};

export async function killWhileJoining(options: SuiteOptions & { readonly runs: number }): Promise<SuiteOutcome> {
  const random = makeRandom(options.seed);
  const planes = await startSuitePlanes(1);
  const tally = { killed: 0, finished: 0, lostTokens: 0, wrong: 0 };
  // How long each takes when nobody interferes; learnt from the runs that end by themselves.
  const usualMs = { enrolment: 600, renewal: 600 };
  try {
    for (let run = 1; run <= options.runs; run += 1) {
      const kind = KINDS[Math.floor(random() * KINDS.length)] ?? KINDS[0];
      const host = { stateDir: join(planes.folder, `host-${run}`), token: await planes.makeToken() };
      const problem = await judgedRun(planes, { kind, host, random, usualMs, tally });
      if (problem !== null) {
        tally.wrong += 1;
        options.say(`run ${run}, ${kind}: ${problem}`);
      }
      if (run % 25 === 0) options.say(`${run} of ${options.runs} runs, ${tally.killed} kills, ${tally.wrong} wrong`);
    }
    const orphans = await countOrphans(planes);
    return {
      figures: {
        runs: options.runs,
        kills: tally.killed,
        valid_identities: tally.finished,
        lost_tokens: tally.lostTokens,
        wrong_runs: tally.wrong,
        orphan_certificates: orphans,
      },
      targets: [
        { figure: "valid_identities", atLeast: options.runs },
        { figure: "lost_tokens", atMost: 0 },
        { figure: "wrong_runs", atMost: 0 },
        { figure: "orphan_certificates", atMost: 0 },
      ],
    };
  } finally {
    await planes.close();
  }
}

interface Run {
  readonly kind: Kind;
  readonly host: { readonly stateDir: string; readonly token: string };
  readonly random: () => number;
  readonly usualMs: { enrolment: number; renewal: number };
  readonly tally: { killed: number; finished: number; lostTokens: number };
}

/** Null when exactly one valid identity came of it, else what was wrong. */
async function judgedRun(planes: SuitePlanes, run: Run): Promise<string | null> {
  const { host, kind } = run;
  const enrol = (): Program => startEnrol(planes, host);
  const renew = (): Program => startRenewal(planes, host);
  const enrolled = kind.endsWith("enrolment")
    ? await until(planes, { ...run, start: enrol, what: "enrolment" })
    : (await enrol().exited) === 0;
  if (!enrolled) {
    run.tally.lostTokens += 1;
    return "the token was worth nothing afterwards";
  }
  if (kind.endsWith("renewal") && !(await until(planes, { ...run, start: renew, what: "renewal" })))
    return "the renewal never ended";
  // The identity is used at the end: only then older certificates of a renewal are done with.
  if ((await renew().exited) !== 0) return "the identity that came of it was refused";
  const problem = await judgeIdentity(planes, host);
  if (problem === null) run.tally.finished += 1;
  return problem;
}

/** Starts it, kills a side at a random instant, and repeats the same command until it ends well. */
async function until(
  planes: SuitePlanes,
  run: Run & { start(): Program; readonly what: "enrolment" | "renewal" },
): Promise<boolean> {
  for (let attempt = 1; attempt <= TRIES_MAX; attempt += 1) {
    const startedMs = systemClock.monotonicMs();
    const program = run.start();
    if (attempt === 1) await killSometime(planes, run, program);
    const code = await program.exited;
    const tookMs = systemClock.monotonicMs() - startedMs;
    // A control plane that is killed makes it longer; that is not the usual time.
    if (code === 0 && (attempt > 1 || run.kind.startsWith("agent")))
      run.usualMs[run.what] = 0.7 * run.usualMs[run.what] + 0.3 * tookMs;
    if (code === 0) return true;
  }
  return false;
}

async function killSometime(
  planes: SuitePlanes,
  run: Run & { readonly what: "enrolment" | "renewal" },
  program: Program,
): Promise<void> {
  const [replica] = planes.replicas;
  // Most of the time goes into starting Node: the instants are spread over the part that matters.
  const usualMs = run.usualMs[run.what];
  const atMs = usualMs * (0.3 + 0.68 * run.random());
  const isLate = await Promise.race([
    systemClock.sleep(atMs, never).then(() => false),
    program.exited.then(() => true),
  ]);
  if (run.kind.startsWith("agent")) {
    program.kill("SIGKILL");
  } else {
    await replica?.kill();
    await replica?.restart();
  }
  if (!isLate) run.tally.killed += 1;
}

function startEnrol(planes: SuitePlanes, host: Run["host"]): Program {
  return startProgram({
    name: "hostler-agent enroll",
    args: [AGENT, "enroll", "--server", planes.replicas[0]?.server ?? "", "--token", host.token],
    env: { HOSTLER_AGENT_STATE_DIR: host.stateDir },
    logPath: `${host.stateDir}.log`,
  });
}

function startRenewal(_planes: SuitePlanes, host: Run["host"]): Program {
  return startProgram({ name: "renewal", args: [RENEW_ONCE, host.stateDir], env: {}, logPath: `${host.stateDir}.log` });
}

/** One node for the token, one certificate that counts, and it is the one on the host's disk. */
async function judgeIdentity(planes: SuitePlanes, host: Run["host"]): Promise<string | null> {
  const stored = await readIdentity(makeDiskFiles(host.stateDir));
  if (stored === null) return "there is no identity on the disk";
  const [, tokenId = ""] = host.token.split(".");
  const rows = await planes.sql<{ nodeId: string; serial: string; state: string }[]>`
    select t.node_id as "nodeId", c.serial, n.state
    from bootstrap_tokens t
    join nodes n on n.id = t.node_id
    join node_certificates c on c.node_id = n.id and c.state = 'active'
    where t.id = ${tokenId}
  `;
  const [row, ...more] = rows;
  if (row === undefined || more.length > 0) return `${rows.length} certificates count`;
  if (row.nodeId !== stored.identity.nodeId) return "the disk and the database name two nodes";
  if (row.state === "frozen") return "the node was taken for two";
  const { serialNumber } = new X509Certificate(stored.identity.certificateChain);
  return row.serial === serialNumber ? null : "the certificate on the disk is not the one that counts";
}

/** Nodes that no token leads to, and certificates that count beside a newer one. */
async function countOrphans(planes: SuitePlanes): Promise<number> {
  const [row] = await planes.sql<{ orphans: number }[]>`
    select (
      (select count(*) from nodes n where not exists (select from bootstrap_tokens t where t.node_id = n.id)) +
      (select count(*) from node_certificates c where c.state = 'active' and exists (
        select from node_certificates o where o.node_id = c.node_id and o.state = 'active' and o.generation > c.generation
      ))
    )::int as orphans
  `;
  return row?.orphans ?? 0;
}
