import { AppError } from "@hostler/shared/errors.ts";
import { prefixed, type HostScope } from "../../host/host-scope.ts";
import type { ProcessSupervisor } from "../../ports/process-supervisor.ts";
import { isSameSlice, type SliceReference, type TerminalCommand } from "../../ports/slice-driver.ts";
import { containerPaths, type ContainerPlaces } from "./container-paths.ts";
import { GUEST_BUSYBOX, GUEST_SEED } from "./guest-init.ts";
import { PROCESSES_MAX } from "./runtime.ts";
import { findLeader, sliceOfProcess } from "./slice-processes.ts";

/** What a shell in a container starts with: nothing of the host's. */
const GUEST_ENVIRONMENT = [
  "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
  "TERM=xterm-256color",
  "LANG=C.UTF-8",
  "HOME=/root",
  "USER=root",
  "LOGNAME=root",
] as const;
/** For the programs on the way in, which are the host's. */
const HOST_ENVIRONMENT = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", TERM: "xterm-256color", LANG: "C.UTF-8" };

/**
 * A terminal is a shell of the container's root in all of the container's name spaces, entered from the host: nothing in the
 * container listens for it. In the user name space it is nobody on the host, and it gains no privileges.
 */
export async function terminalCommand(
  deps: { readonly places: ContainerPlaces; readonly supervisor: ProcessSupervisor; readonly scope: HostScope },
  slice: SliceReference,
): Promise<TerminalCommand> {
  const found = await deps.supervisor.inspect(containerPaths(deps.places, slice).name);
  const owner = found.state === "running" ? await sliceOfProcess(found.pid) : null;
  const leader = found.state === "running" ? await findLeader(found.pid) : null;
  if (leader === null || owner === null || !isSameSlice(owner, slice))
    throw new AppError("terminal_unavailable", { detail: "The container does not run on this host." });
  return { argv: prefixed(deps.scope.terminal, enterArgv(leader)), env: HOST_ENVIRONMENT };
}

export function enterArgv(leader: number): readonly [string, ...string[]] {
  const nameSpaces = ["--user", "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"];
  return [
    ...["env", "-i", ...GUEST_ENVIRONMENT],
    ...["prlimit", `--nproc=${PROCESSES_MAX}`, "setpriv", "--no-new-privs", "--"],
    ...["nsenter", `--target=${leader}`, ...nameSpaces, "--"],
    ...[GUEST_BUSYBOX, "sh", `${GUEST_SEED}/terminal`],
  ] as unknown as [string, ...string[]];
}
