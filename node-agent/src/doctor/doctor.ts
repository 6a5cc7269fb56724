import { lookup } from "node:dns/promises";
import { parseArgs } from "node:util";
import { systemClock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { findProgram } from "../host/find-program.ts";
import { AGENT_BUILT_AT } from "../version.ts";
import { diagnose } from "./diagnose.ts";
import type { DoctorDeps } from "./doctor-deps.ts";
import type { Finding } from "./finding.ts";
import { countTrouble, jsonOf, lineOf, summaryOf } from "./print-findings.ts";
import type { DoctorRequest } from "./scene.ts";

/** The command `hostler-agent doctor`: writes what it finds as it finds it. Resolves with the exit code: 1 when there is a problem. */
export async function doctor(
  words: readonly string[],
  options: { readonly stateDir: string; readonly deps?: DoctorDeps; write(text: string): void },
): Promise<number> {
  const { json, enrolment } = readWords(words);
  const findings: Finding[] = [];
  for await (const finding of diagnose(options.deps ?? hostDeps(), { stateDir: options.stateDir, enrolment })) {
    findings.push(finding);
    if (!json) options.write(`${lineOf(finding)}\n`);
  }
  options.write(`${json ? jsonOf(findings) : summaryOf(findings)}\n`);
  return countTrouble(findings).problems > 0 ? 1 : 0;
}

function readWords(words: readonly string[]): {
  readonly json: boolean;
  readonly enrolment: DoctorRequest["enrolment"];
} {
  const { values } = parseArgs({
    args: [...words],
    options: { json: { type: "boolean" }, server: { type: "string" }, token: { type: "string" } },
  });
  const { json = false, server, token } = values;
  if (server === undefined && token === undefined) return { json, enrolment: null };
  if (server === undefined || token === undefined)
    throw new AppError("malformed_request", { detail: "--server HOST:PORT and --token TOKEN go together." });
  return { json, enrolment: { server, token } };
}

function hostDeps(): DoctorDeps {
  return {
    clock: systemClock,
    resolve: async (host) => await lookup(host, { all: true }),
    find: findProgram,
    devices: { kvm: "/dev/kvm", tun: "/dev/net/tun" },
    userId: process.getuid?.() ?? 0,
    builtAt: new Date(AGENT_BUILT_AT),
    limits: { stepMs: 5000, totalMs: 13_000 },
  };
}
