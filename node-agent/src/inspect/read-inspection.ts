import { systemClock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { shortName } from "@hostler/shared/ids.ts";
import { driverPlaces } from "../drivers/driver-places.ts";
import { makeAddressPool } from "../drivers/network/addresses.ts";
import type { QemuPlaces } from "../drivers/slices/slice-paths.ts";
import { makeHostCommands } from "../host/host-commands.ts";
import { HOST_ROOTS } from "../host/pci/pci-roots.ts";
import { chooseSupervisor } from "../host/process-supervisor.ts";
import { readLockHolder } from "../host/state-lock.ts";
import { makeDiskFiles } from "../journal/disk-files.ts";
import { makeHostLedger, type LedgerRow } from "../journal/host-ledger.ts";
import { makeJournalStore, type JournalStore } from "../journal/journal-file.ts";
import { stageOf } from "../journal/model.ts";
import { hostSources } from "../reconcile/host-sources.ts";
import type { Row } from "../reconcile/model.ts";
import { lookAtHost } from "../reconcile/look-at-host.ts";
import { readReport, type ReconcileReport } from "../reconcile/report-file.ts";
import { surveyGpus } from "../reconcile/survey-gpus.ts";

/** A slice by its journal. */
export interface InspectedSlice {
  readonly allocationId: string;
  readonly generation: number;
  readonly driver: string;
  readonly stage: string;
  /** Such as `disk failed: ...`; null when nothing did. */
  readonly failure: string | null;
  readonly fence: string;
  /** Null when the ledger holds nothing for it. */
  readonly held: { readonly memoryMib: number; readonly gpuUuids: readonly string[] } | null;
}

export interface Inspection {
  /** Who looked: a running agent, which knows what its tasks have in hand, or this command itself. */
  readonly lookedBy: "agent" | "inspect";
  readonly agentPid: number | null;
  readonly lookedAt: string;
  readonly slices: readonly InspectedSlice[];
  readonly rows: readonly Row[];
  readonly isWhole: boolean;
  readonly undone: readonly ReconcileReport["undone"][number][];
}

/** Reads what an agent that runs has left, or else looks at the host itself. Changes nothing, and takes no lock. */
export async function readInspection(agent: QemuPlaces): Promise<Inspection> {
  const files = makeDiskFiles(agent.stateDir);
  const journals = makeJournalStore({ files, clock: systemClock });
  const ledger = makeHostLedger(files);
  const [holder, report] = [await readLockHolder(agent.stateDir), await readReport(files)];
  const slices = await readSlices(journals, await ledger.read().catch(() => null));
  if (holder !== null) {
    if (report?.agentPid !== holder.pid)
      throw new AppError("service_unavailable", {
        detail: `The agent (pid ${holder.pid}) has not looked at this host yet; ask again in a few seconds, or see: hostler-agent status.`,
      });
    const { lookedAt, rows, isWhole, undone } = report;
    return { lookedBy: "agent", agentPid: holder.pid, lookedAt, slices, rows, isWhole, undone };
  }
  const commands = makeHostCommands({ clock: systemClock });
  const deps = {
    files,
    commands,
    ledger,
    places: Object.values(driverPlaces(agent)),
    supervisor: await chooseSupervisor({ commands, clock: systemClock, stateDir: agent.stateDir }),
    addresses: makeAddressPool({ files, commands }),
    gpus: surveyGpus({ files, commands, clock: systemClock, roots: HOST_ROOTS }),
    hasNetwork: report?.hasNetwork ?? process.getuid?.() === 0,
  };
  const lookedAt = systemClock.now().toISOString();
  const look = { journals, inHand: () => [], sources: hostSources(deps) };
  const { rows } = await lookAtHost(look, { isFirst: false, signal: new AbortController().signal });
  return { lookedBy: "inspect", agentPid: null, lookedAt, slices, rows, isWhole: true, undone: [] };
}

async function readSlices(
  journals: JournalStore,
  ledger: Readonly<Record<string, LedgerRow>> | null,
): Promise<InspectedSlice[]> {
  const slices: InspectedSlice[] = [];
  for (const slice of await journals.list()) {
    // One that cannot be read is a row of its own among the things.
    const state = await journals.peek(slice).catch(() => null);
    if (state === null) continue;
    const { allocationId, generation } = slice;
    const { [shortName(allocationId, generation)]: row } = ledger ?? {};
    slices.push({
      allocationId,
      generation,
      driver: state.driver,
      stage: stageOf(state),
      failure: state.failure === null ? null : `${state.failure.phase} failed: ${state.failure.message}`,
      fence: state.fence,
      held: row === undefined ? null : { memoryMib: row.memoryMib, gpuUuids: row.gpuUuids },
    });
  }
  return slices;
}
