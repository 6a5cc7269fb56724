import type { AddressPool } from "../drivers/network/addresses.ts";
import type { QemuPlaces } from "../drivers/slices/slice-paths.ts";
import type { Volumes } from "../drivers/volumes/volumes.ts";
import type { HostLedger } from "../journal/host-ledger.ts";
import type { HostCommands } from "../ports/host-commands.ts";
import type { ProcessSupervisor } from "../ports/process-supervisor.ts";
import type { StateFiles } from "../ports/state-files.ts";
import type { GpuSurvey } from "./gpu-survey.ts";
import type { HostSource } from "./host-source.ts";
import { accounts } from "./sources/accounts.ts";
import { addressRows, ledgerRows } from "./sources/books.ts";
import { gpuHoldings } from "./sources/gpus.ts";
import { machines } from "./sources/machines.ts";
import { mockObjects } from "./sources/mock-objects.ts";
import { mounts } from "./sources/mounts.ts";
import { networkObjects } from "./sources/network-objects.ts";
import { runFolders } from "./sources/run-folders.ts";
import { sliceFolders } from "./sources/slice-folders.ts";
import { supervisedNames } from "./sources/supervised-names.ts";
import { volumes } from "./sources/volumes.ts";

export interface HostSourceDeps {
  /** One a driver; the first is the agent's own. */
  readonly places: readonly QemuPlaces[];
  /** `/etc`, unless a test has another one. */
  readonly etcDir?: string;
  readonly files: StateFiles;
  readonly commands: HostCommands;
  readonly supervisor: ProcessSupervisor;
  readonly addresses: Pick<AddressPool, "list">;
  readonly ledger: Pick<HostLedger, "read">;
  readonly gpus: GpuSurvey;
  /** Null, or left out, where disks are files. */
  readonly volumes?: Pick<Volumes, "list"> | null;
  /** False where slices have no interfaces on the host, and the agent may not look for any. */
  readonly hasNetwork: boolean;
}

/** Every place where something of a slice may be. All of them whatever drivers this agent runs with: an earlier one had others. */
export function hostSources(deps: HostSourceDeps): readonly HostSource[] {
  const stateDirs = deps.places.map(({ stateDir }) => stateDir);
  const runDirs = deps.places.map(({ runDir }) => runDir);
  return [
    sliceFolders(stateDirs),
    runFolders(runDirs),
    mounts(runDirs),
    ...(deps.volumes ? [volumes(deps.volumes)] : []),
    machines([...stateDirs, ...runDirs]),
    accounts(deps.etcDir ?? "/etc"),
    supervisedNames(deps.supervisor),
    ...(deps.hasNetwork ? [networkObjects(deps.commands)] : []),
    ledgerRows(deps.ledger),
    addressRows(deps.addresses),
    mockObjects(deps.files),
    gpuHoldings(deps.gpus),
  ];
}
