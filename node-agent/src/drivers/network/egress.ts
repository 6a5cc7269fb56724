import { readFile } from "node:fs/promises";
import { isIPv4 } from "node:net";
import { brokenProgram, parseAnswer, requireSuccess } from "../../host/host-commands.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import * as z from "zod";
import type { Egress } from "./network-rules.ts";

const netconfSchema = z.array(
  z.looseObject({ family: z.string(), interface: z.string(), forwarding: z.boolean().optional() }),
);
const routesSchema = z.array(z.looseObject({ dst: z.string() }));
/** One process for both: each answers in a line of its own. */
const ASK = ["ip", "-j", "-batch", "-"] as const;
const QUESTIONS = "route show default\nnetconf show\n";
const RESOLVERS_MAX = 3;

/**
 * Whether slices may reach the outside: only where the host has a default route and its operator lets it forward already.
 * The setting is global, so it is never changed from here.
 */
export async function readEgress(commands: HostCommands, signal: AbortSignal): Promise<Egress> {
  const asked = await commands.run(ASK, { timeoutMs: 10_000, signal, input: QUESTIONS });
  const answers = requireSuccess(ASK, asked).stdout.trim().split("\n");
  if (answers.length !== 2)
    throw brokenProgram(ASK, `it answered ${answers.filter((answer) => answer !== "").length} of 2 questions`);
  const routes = parseAnswer(ASK, answers[0] ?? "", routesSchema);
  const settings = parseAnswer(ASK, answers[1] ?? "", netconfSchema);
  const forwards = settings.some(
    (setting) => setting.family === "inet" && setting.interface === "all" && setting.forwarding === true,
  );
  if (routes.length === 0 || !forwards) return { kind: "none" };
  return { kind: "masquerade", resolvers: parseResolvers(await readFile("/etc/resolv.conf", "utf8").catch(() => "")) };
}

/** A resolver on the host's own loopback is not one for slices: they never reach the host. */
export function parseResolvers(text: string): string[] {
  const addresses = text.split("\n").flatMap((line) => /^\s*nameserver\s+(\S+)/.exec(line)?.[1] ?? []);
  return addresses.filter((address) => isIPv4(address) && !address.startsWith("127.")).slice(0, RESOLVERS_MAX);
}
