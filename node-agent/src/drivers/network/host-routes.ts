import { readFile } from "node:fs/promises";
import { isIPv4 } from "node:net";
import { brokenProgram, parseAnswer, requireSuccess } from "../../host/host-commands.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import * as z from "zod";
import { makeSharedWork, type SharedWork } from "@hostler/shared/shared-work.ts";
import type { Egress } from "./network-rules.ts";

/** Where the addresses of slices are cut from. */
export const SLICE_RANGE = "10.203.0.0/16";

/** What the host's own routes and settings say of the networks of slices. */
export interface HostRoutes {
  /** Whether slices may reach the outside: only where the host has a default route and its operator lets it forward already. */
  readonly egress: Egress;
  /** Whether slices that have IPv6 may reach the outside by it: again only where there is a way, and the host forwards. */
  readonly forwardsIpv6: boolean;
  /** What the host routes already within `SLICE_RANGE`, such as `10.203.0.64/27`; one address has no length. */
  readonly taken: readonly string[];
}

const netconfSchema = z.array(
  z.looseObject({ family: z.string(), interface: z.string(), forwarding: z.boolean().optional() }),
);
const routesSchema = z.array(z.looseObject({ dst: z.string() }));
/** One process for all: each answers in a line of its own. */
const ASK = ["ip", "-j", "-batch", "-"] as const;
const QUESTIONS = ["route show default", "netconf show", `route show root ${SLICE_RANGE}`] as const;
/** Within the others, `ip` shows no routes of IPv6. */
const ASK_IPV6 = ["ip", "-j", "-6", "route", "show", "default"] as const;
const TIMEOUT_MS = 10_000;
const RESOLVERS_MAX = 3;

/** Who asks now, by whom they ask. */
const asking = new WeakMap<HostCommands, SharedWork<HostRoutes>>();

/**
 * Reads them; that the host forwards is a setting for all of it, so it is never changed from here. Seed and network of a slice ask
 * side by side: who comes while somebody asks gets the same answer.
 */
export async function readHostRoutes(commands: HostCommands, signal: AbortSignal): Promise<HostRoutes> {
  const shared = asking.get(commands) ?? makeSharedWork<HostRoutes>();
  asking.set(commands, shared);
  const waiter = { signal, report: () => undefined };
  return await shared.join("routes", waiter, async (all) => await askForRoutes(commands, all.signal));
}

async function askForRoutes(commands: HostCommands, signal: AbortSignal): Promise<HostRoutes> {
  const input = QUESTIONS.map((question) => `${question}\n`).join("");
  const asked = await commands.run(ASK, { timeoutMs: TIMEOUT_MS, signal, input });
  const answers = requireSuccess(ASK, asked).stdout.trim().split("\n");
  const [ways = "", settings = "", taken = ""] = answers;
  if (answers.length !== QUESTIONS.length)
    throw brokenProgram(
      ASK,
      `it answered ${answers.filter((answer) => answer !== "").length} of ${QUESTIONS.length} questions`,
    );
  const hasWay = parseAnswer(ASK, ways, routesSchema).length > 0;
  const forwarding = parseAnswer(ASK, settings, netconfSchema).filter(
    (setting) => setting.interface === "all" && setting.forwarding === true,
  );
  const forwards = (family: string): boolean => forwarding.some((setting) => setting.family === family);
  return {
    egress: hasWay && forwards("inet") ? await masquerade() : { kind: "none" },
    forwardsIpv6: forwards("inet6") && (await hasWayByIpv6(commands, signal)),
    taken: parseAnswer(ASK, taken, routesSchema).map(({ dst }) => dst),
  };
}

async function hasWayByIpv6(commands: HostCommands, signal: AbortSignal): Promise<boolean> {
  const { stdout } = requireSuccess(ASK_IPV6, await commands.run(ASK_IPV6, { timeoutMs: TIMEOUT_MS, signal }));
  return parseAnswer(ASK_IPV6, stdout || "[]", routesSchema).length > 0;
}

async function masquerade(): Promise<Egress> {
  return { kind: "masquerade", resolvers: parseResolvers(await readFile("/etc/resolv.conf", "utf8").catch(() => "")) };
}

/** A resolver on the host's own loopback is not one for slices: they never reach the host. */
export function parseResolvers(text: string): string[] {
  const addresses = text.split("\n").flatMap((line) => /^\s*nameserver\s+(\S+)/.exec(line)?.[1] ?? []);
  return addresses.filter((address) => isIPv4(address) && !address.startsWith("127.")).slice(0, RESOLVERS_MAX);
}
