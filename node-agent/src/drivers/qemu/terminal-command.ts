import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import * as z from "zod";
import type { SliceReference, TerminalCommand } from "../../ports/slice-driver.ts";
import { withQmp } from "./qmp.ts";
import { GUEST_USER } from "../slices/seed-files.ts";
import { slicePaths, TERMINAL_PORTS, type QemuPlaces } from "../slices/slice-paths.ts";

const chardevsSchema = z.array(z.looseObject({ label: z.string(), filename: z.string() }));
/** How long a port that was just given out counts as taken although ssh has not connected yet. */
const CLAIM_MS = 5000;

/**
 * A terminal is `ssh` over one of the machine's virtio-serial ports. Which ports are free is asked of QEMU itself, so that it
 * is right also after the agent was restarted. Of the free ones, the one unused for longest: the guest's side of a port that
 * was just left may not have noticed yet.
 */
export function makeTerminalCommands(deps: {
  readonly places: QemuPlaces;
  readonly clock: Clock;
}): (slice: SliceReference) => Promise<TerminalCommand> {
  /** When each port was last given out. */
  const given = new Map<string, number>();
  return async (slice) => {
    const paths = slicePaths(deps.places, slice);
    const chardevs = chardevsSchema.parse(
      await withQmp(paths.qmp, deps.clock, async (qmp) => await qmp.run("query-chardev")),
    );
    const nowMs = deps.clock.monotonicMs();
    const isConnected = (index: number): boolean =>
      !chardevs.some(({ label, filename }) => label === `ssh${index}` && filename.startsWith("disconnected:"));
    const givenAtMs = (index: number): number => given.get(paths.terminal(index)) ?? Number.NEGATIVE_INFINITY;
    const [free] = Array.from({ length: TERMINAL_PORTS }, (_, index) => index)
      .filter((index) => !isConnected(index) && givenAtMs(index) + CLAIM_MS < nowMs)
      .toSorted((left, right) => givenAtMs(left) - givenAtMs(right));
    if (free === undefined)
      throw new AppError("terminal_limit", { detail: `All ${TERMINAL_PORTS} terminal ports of the slice are in use.` });
    given.set(paths.terminal(free), nowMs);
    return { argv: sshArgv(paths.platformKey, paths.terminal(free)), env: ENVIRONMENT };
  };
}

/** ssh and socat run on the host, so the path is the host's; TERM is the only thing that ssh hands to the guest. */
const ENVIRONMENT = {
  PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
  TERM: "xterm-256color",
  LANG: "C.UTF-8",
};

export function sshArgv(key: string, socket: string): readonly [string, ...string[]] {
  // ssh hands the proxy command to a shell: nothing but our own safe characters may be in it.
  if (!/^[A-Za-z0-9._/-]+$/.test(socket))
    throw new Error(`the socket path ${socket} has characters that a shell might read`);
  const options = [
    "IdentitiesOnly=yes",
    "BatchMode=yes",
    // The socket leads into this very machine and nowhere else, so there is no host key to be fooled about.
    "StrictHostKeyChecking=no",
    "UserKnownHostsFile=/dev/null",
    "GlobalKnownHostsFile=/dev/null",
    "LogLevel=ERROR",
    "ConnectTimeout=20",
    // A guest that hangs ends its terminals after a minute.
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
    `ProxyCommand=socat - UNIX-CONNECT:${socket}`,
  ];
  const flags = options.flatMap((option) => ["-o", option]);
  return ["ssh", "-F", "none", "-e", "none", "-tt", "-i", key, ...flags, `${GUEST_USER}@slice`];
}
