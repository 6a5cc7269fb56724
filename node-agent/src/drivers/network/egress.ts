import { readFile } from "node:fs/promises";
import { isIPv4 } from "node:net";
import { requireSuccess } from "../../host/host-commands.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import * as z from "zod";
import type { Egress } from "./network-rules.ts";

const netconfSchema = z.array(z.looseObject({ interface: z.string(), forwarding: z.boolean().optional() }));
const routesSchema = z.array(z.looseObject({ dst: z.string() }));
const RESOLVERS_MAX = 3;

/**
 * Whether slices may reach the outside: only where the host has a default route and its operator lets it forward already.
 * The setting is global, so it is never changed from here.
 */
export async function readEgress(commands: HostCommands, signal: AbortSignal): Promise<Egress> {
  const ask = async (...words: readonly string[]): Promise<unknown> => {
    const argv = ["ip", "-j", "-4", ...words] as const;
    return JSON.parse(requireSuccess(argv, await commands.run(argv, { timeoutMs: 10_000, signal })).stdout || "[]");
  };
  const routes = routesSchema.parse(await ask("route", "show", "default"));
  const settings = netconfSchema.parse(await ask("netconf", "show"));
  const forwards = settings.find((setting) => setting.interface === "all")?.forwarding === true;
  if (routes.length === 0 || !forwards) return { kind: "none" };
  return { kind: "masquerade", resolvers: parseResolvers(await readFile("/etc/resolv.conf", "utf8").catch(() => "")) };
}

/** A resolver on the host's own loopback is not one for slices: they never reach the host. */
export function parseResolvers(text: string): string[] {
  const addresses = text.split("\n").flatMap((line) => /^\s*nameserver\s+(\S+)/.exec(line)?.[1] ?? []);
  return addresses.filter((address) => isIPv4(address) && !address.startsWith("127.")).slice(0, RESOLVERS_MAX);
}
