import { AppError } from "@hostler/shared/errors.ts";
import type { CommandOptions, CommandResult, HostCommands } from "../ports/host-commands.ts";
import { OWN_SCOPE, type HostScope } from "./host-scope.ts";

/** What a program may take that reads bytes of a tenant. */
export interface Confinement {
  /** `reader`: nobody, who may read every file and write none. `unpacker`: root, who may only make files and give them away. */
  readonly rights: "reader" | "unpacker";
  readonly memoryMib: number;
  /** Of each process. */
  readonly cpuSeconds: number;
  /** Of each file that it writes; 0 for a reader. */
  readonly fileBytesMax: number;
}

/** Runs programs on hostile input: without network, without most rights, and within limits that the kernel holds. */
export interface Confined {
  run(
    argv: readonly [string, ...string[]],
    options: CommandOptions & { readonly confinement: Confinement },
  ): Promise<CommandResult>;
}

const NOBODY = 65_534;
const OPEN_FILES_MAX = 256;
const PROBE_TIMEOUT_MS = 10_000;
const CAPABILITIES = {
  reader: ["dac_read_search"],
  unpacker: ["chown", "dac_override", "fowner", "fsetid", "setfcap"],
} as const;

/**
 * Under systemd a short unit of its own; elsewhere `unshare`, `setpriv` and `prlimit` of util-linux, each of which becomes the
 * next one. What the host or our own rights do not allow is left out, the limits never: an agent without root has no more than its
 * own rights to lose. Found out once, by running `true`.
 */
export function makeConfined(deps: {
  readonly commands: HostCommands;
  readonly scope?: HostScope;
  readonly isRoot?: boolean;
}): Confined {
  const { commands, scope = OWN_SCOPE, isRoot = process.getuid?.() === 0 } = deps;
  const isUnit = scope.command.length > 0;
  const known = new Map<Confinement["rights"], Promise<Wrap>>();
  return {
    run: async (argv, { confinement, ...options }) => {
      const { rights } = confinement;
      if (!isRoot) return await commands.run(limited(argv, confinement), options);
      const found = known.get(rights) ?? (isUnit ? askSystemd : strongest)(commands, confinement);
      known.set(rights, found);
      found.catch(() => known.delete(rights));
      return await commands.run((await found)(argv, confinement, options.timeoutMs), options);
    },
  };
}

type Wrap = (
  argv: readonly [string, ...string[]],
  confinement: Confinement,
  timeoutMs: number,
) => readonly [string, ...string[]];

/** Strongest first. */
const WRAPS: readonly Wrap[] = [
  (argv, confinement) => ["unshare", "--net", "--ipc", "--", ...withoutRights(argv, confinement)],
  withoutRights,
  limited,
];

async function strongest(commands: HostCommands, confinement: Confinement): Promise<Wrap> {
  const { signal } = new AbortController();
  for (const wrap of WRAPS) {
    const argv = wrap(["true"], confinement, PROBE_TIMEOUT_MS);
    const { exitCode } = await commands.run(argv, { timeoutMs: PROBE_TIMEOUT_MS, signal });
    if (exitCode === 0) return wrap;
  }
  return limited;
}

/** Before anything hostile is looked at: a systemd that starts nothing says nothing of an image. */
async function askSystemd(commands: HostCommands, confinement: Confinement): Promise<Wrap> {
  const { signal } = new AbortController();
  const argv = inUnit(["true"], confinement, PROBE_TIMEOUT_MS);
  const { exitCode, stderr } = await commands.run(argv, { timeoutMs: PROBE_TIMEOUT_MS, signal });
  if (exitCode === 0) return inUnit;
  throw new AppError("driver_unavailable", {
    detail: `Images are read by programs in units of their own, and systemd-run starts none (${stderr.trim().slice(-300)}): apt-get install dbus, then systemctl start dbus.`,
  });
}

/** The rest of the rights is gone also for programs that it starts: no set-user-id bit gives them back. */
function withoutRights(argv: readonly [string, ...string[]], confinement: Confinement): readonly [string, ...string[]] {
  const { rights } = confinement;
  const kept = `-all,${CAPABILITIES[rights].map((name) => `+${name}`).join(",")}`;
  const asNobody = [`--reuid=${NOBODY}`, `--regid=${NOBODY}`, `--inh-caps=${kept}`, `--ambient-caps=${kept}`];
  return [
    "setpriv",
    ...(rights === "reader" ? asNobody : []),
    ...["--clear-groups", "--no-new-privs", `--bounding-set=${kept}`, "--"],
    ...limited(argv, confinement),
  ];
}

function limited(argv: readonly [string, ...string[]], confinement: Confinement): readonly [string, ...string[]] {
  const { memoryMib, cpuSeconds, fileBytesMax } = confinement;
  const limits = [`--as=${memoryMib * 1024 ** 2}`, `--cpu=${cpuSeconds}`, `--fsize=${fileBytesMax}`];
  return ["prlimit", ...limits, `--nofile=${OPEN_FILES_MAX}`, "--core=0", "--", ...argv];
}

/** The unit's own limits are the same; systemd makes the name spaces that the agent's own unit gave up, and keeps the deadline. */
function inUnit(
  argv: readonly [string, ...string[]],
  confinement: Confinement,
  timeoutMs: number,
): readonly [string, ...string[]] {
  const { rights, memoryMib, cpuSeconds, fileBytesMax } = confinement;
  const kept = CAPABILITIES[rights].map((name) => `CAP_${name.toUpperCase()}`).join(" ");
  const asNobody = [`User=${NOBODY}`, `Group=${NOBODY}`, `AmbientCapabilities=${kept}`];
  const properties = [
    ...(rights === "reader" ? asNobody : []),
    ...[`CapabilityBoundingSet=${kept}`, "NoNewPrivileges=yes", "PrivateNetwork=yes", "PrivateDevices=yes"],
    ...[`LimitAS=${memoryMib}M`, `LimitCPU=${cpuSeconds}`, `LimitFSIZE=${fileBytesMax}`, "LimitCORE=0"],
    ...[`LimitNOFILE=${OPEN_FILES_MAX}`, `RuntimeMaxSec=${Math.ceil(timeoutMs / 1000)}`],
  ];
  const unit = ["--quiet", "--collect", "--wait", "--pipe"];
  return ["systemd-run", ...unit, ...properties.flatMap((property) => ["-p", property]), "--", ...argv];
}
