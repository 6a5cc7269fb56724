import { access } from "node:fs/promises";
import type { HostCommands } from "../ports/host-commands.ts";

/**
 * How a program gets the host's own view and rights. Where systemd runs the agent, the agent has given up mounts and namespaces
 * for good, so such programs run as short units of their own; elsewhere the agent has them itself.
 */
export interface HostScope {
  /** Put before a program that runs to its end. */
  readonly command: readonly string[];
  /** Put before a program in a PTY; its exit code passes through. */
  readonly terminal: readonly string[];
}

export const OWN_SCOPE: HostScope = { command: [], terminal: [] };
export const SYSTEMD_SCOPE: HostScope = {
  command: ["systemd-run", "--quiet", "--collect", "--wait", "--pipe", "--"],
  terminal: ["systemd-run", "--quiet", "--collect", "--wait", "--pty", "--"],
};

export async function readHostScope(): Promise<HostScope> {
  return (await isSystemdInCharge()) ? SYSTEMD_SCOPE : OWN_SCOPE;
}

/** Whether systemd is PID 1 and takes our orders. */
export async function isSystemdInCharge(): Promise<boolean> {
  return await access("/run/systemd/system").then(
    () => process.getuid?.() === 0,
    () => false,
  );
}

/** The same commands, run in that scope. */
export function inScope(commands: HostCommands, scope: HostScope): HostCommands {
  return { run: async (argv, options) => await commands.run(prefixed(scope.command, argv), options) };
}

export function prefixed(
  prefix: readonly string[],
  argv: readonly [string, ...string[]],
): readonly [string, ...string[]] {
  const [first, ...rest] = prefix;
  return first === undefined ? argv : [first, ...rest, ...argv];
}
