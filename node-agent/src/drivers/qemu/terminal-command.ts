import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import * as z from "zod";
import type { SliceReference, TerminalCommand } from "../../ports/slice-driver.ts";
import { withQmp } from "./qmp.ts";
import { GUEST_USER } from "./seed-files.ts";
import { slicePaths, TERMINAL_PORTS, type QemuPlaces } from "./slice-paths.ts";

const chardevsSchema = z.array(z.looseObject({ label: z.string(), filename: z.string() }));
/** How long a port that was just given out counts as taken although ssh has not connected yet. */
const CLAIM_MS = 10_000;

/**
 * A terminal is `ssh` over one of the machine's virtio-serial ports. Which port is free is asked of QEMU itself, so that it
 * is right also after the agent was restarted.
 */
export function makeTerminalCommands(deps: {
  readonly places: QemuPlaces;
  readonly clock: Clock;
}): (slice: SliceReference) => Promise<TerminalCommand> {
  const claims = new Map<string, number>();
  return async (slice) => {
    const paths = slicePaths(deps.places, slice);
    const chardevs = chardevsSchema.parse(
      await withQmp(paths.qmp, deps.clock, async (qmp) => await qmp.run("query-chardev")),
    );
    const nowMs = deps.clock.monotonicMs();
    const free = Array.from({ length: TERMINAL_PORTS }, (_, index) => index).find((index) => {
      const isDisconnected = chardevs.some(
        (chardev) => chardev.label === `ssh${index}` && chardev.filename.startsWith("disconnected:"),
      );
      return isDisconnected && (claims.get(paths.terminal(index)) ?? 0) < nowMs;
    });
    if (free === undefined)
      throw new AppError("terminal_limit", { detail: `All ${TERMINAL_PORTS} terminal ports of the slice are in use.` });
    claims.set(paths.terminal(free), nowMs + CLAIM_MS);
    return {
      argv: sshArgv(paths.platformKey, paths.terminal(free)),
      env: {
        PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        TERM: "xterm-256color",
        LANG: "C.UTF-8",
      },
    };
  };
}

function sshArgv(key: string, socket: string): readonly [string, ...string[]] {
  // ssh hands the proxy command to a shell: nothing but our own safe characters may be in it.
  if (!/^[A-Za-z0-9._/-]+$/.test(socket))
    throw new Error(`the socket path ${socket} has characters that a shell might read`);
  return [
    "ssh",
    ...["-F", "none", "-e", "none", "-tt", "-i", key],
    ...option("IdentitiesOnly=yes"),
    // The socket leads into this very machine and nowhere else, so there is no host key to be fooled about.
    ...option("StrictHostKeyChecking=no"),
    ...option("UserKnownHostsFile=/dev/null"),
    ...option("LogLevel=ERROR"),
    ...option("ConnectTimeout=20"),
    ...option(`ProxyCommand=socat - UNIX-CONNECT:${socket}`),
    `${GUEST_USER}@slice`,
  ];
}

function option(text: string): [string, string] {
  return ["-o", text];
}
