import { pkiStatusSchema, type PkiStatus, type RotationStep } from "@hostler/shared/api/pki.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { ApiClient } from "../api-client.ts";
import { textOf, type Command, type Invocation } from "../command.ts";
import { parseDurationSeconds, table } from "../output.ts";

const PKI = "/api/ops/v1/pki";
const LOOK_MS = 1000;

export const pkiCommands: readonly Command[] = [
  {
    words: "pki status",
    summary: "Show the certificate authorities and how far the hosts are with a rotation.",
    positionals: [],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      invocation.print.result(await readStatus(client), drawStatus);
      return 0;
    },
  },
  {
    words: "pki rotate",
    summary: "Replace the certificate authorities and task keys, step by step, while everything runs.",
    positionals: [],
    options: {
      step: { type: "string", help: "Only one step: prepare, issue or retire. All of them unless given." },
      timeout: { type: "string", help: "How long to wait for hosts before each step, such as 10m. 10m unless given." },
      force: { type: "boolean", help: "Go on without hosts that are not ready; they come back by their last key." },
    },
    run: rotate,
  },
  {
    words: "pki rollback",
    summary: "Go one step of a rotation back.",
    positionals: [],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      invocation.print.result(await takeStep(client, "rollback", false), drawStatus);
      return 0;
    },
  },
];

async function rotate(invocation: Invocation): Promise<number> {
  const client = await invocation.client();
  const force = invocation.values["force"] === true;
  const timeoutSeconds = parseDurationSeconds(textOf(invocation, "timeout") ?? "10m");
  if (timeoutSeconds === null)
    throw new AppError("malformed_request", { detail: "--timeout is not a duration. Write 90s, 10m or 1h." });
  const only = textOf(invocation, "step");
  for (const step of only === undefined ? stepsFrom(await readStatus(client)) : [parseStep(only)]) {
    if (!force) await waitForHosts(client, { step, timeoutSeconds, note: invocation.print.note });
    await takeStep(client, step, force);
    invocation.print.note(`${step}: done`);
  }
  invocation.print.result(await readStatus(client), drawStatus);
  return 0;
}

/** What is left of a rotation that was begun, or all of a new one. */
function stepsFrom(status: PkiStatus): RotationStep[] {
  const phases = status.authorities.map(({ phase }) => phase);
  if (phases.includes("outgoing")) return ["retire"];
  return phases.includes("prepared") ? ["issue", "retire"] : ["prepare", "issue", "retire"];
}

function parseStep(text: string): RotationStep {
  const step = (["prepare", "issue", "retire"] as const).find((known) => known === text);
  if (step === undefined)
    throw new AppError("malformed_request", { detail: `--step ${text} is none of prepare, issue, retire.` });
  return step;
}

async function waitForHosts(
  client: ApiClient,
  options: { readonly step: RotationStep; readonly timeoutSeconds: number; note(line: string): void },
): Promise<void> {
  const { step, timeoutSeconds, note } = options;
  let told = "";
  for (let seconds = 0; seconds <= timeoutSeconds; seconds += LOOK_MS / 1000) {
    const { nodes } = await readStatus(client);
    const ready = { prepare: nodes.online, issue: nodes.withNewestTrust, retire: nodes.onActiveAuthority, rollback: 0 };
    if (ready[step] >= nodes.online) return;
    const line = `${step}: ${ready[step]} of ${nodes.online} online hosts are ready`;
    if (line !== told) note(line);
    told = line;
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
  throw new AppError("conflict", {
    detail: `Not all online hosts were ready for ${step} within ${timeoutSeconds} s. See hostler pki status; run the same command again to go on.`,
  });
}

async function takeStep(client: ApiClient, step: RotationStep, force: boolean): Promise<PkiStatus> {
  return await client.post(`${PKI}/rotation`, { step, force }, pkiStatusSchema);
}

async function readStatus(client: ApiClient): Promise<PkiStatus> {
  return await client.get(PKI, pkiStatusSchema);
}

function drawStatus(status: PkiStatus): string {
  const { nodes } = status;
  const lines = [
    table(
      ["generation", "phase", "expires", "pin"],
      status.authorities.map(({ generation, phase, expiresAt, pin }) => [String(generation), phase, expiresAt, pin]),
    ),
    "",
    `Trust bundle ${status.trustVersion}: ${nodes.withNewestTrust} of ${nodes.online} online hosts have it, ${nodes.onActiveAuthority} have a certificate of the active generation; ${nodes.offline} hosts are away.`,
    ...nodes.waitingFor.map(({ name, id, reason }) => `  waits for ${name} (${id}): ${reason}`),
  ];
  return lines.join("\n");
}
