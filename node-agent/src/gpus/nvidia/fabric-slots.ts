import { oneAtATime } from "@hostler/shared/one-at-a-time.ts";
import * as z from "zod";
import { AppError } from "@hostler/shared/errors.ts";
import type { Facts } from "../../ports/slice-driver.ts";
import type { StateFiles } from "../../ports/state-files.ts";
import type { FabricManager } from "../fabric/fabric-manager.ts";

/** The NVSwitch partitions of slices. */
export interface FabricSlots {
  /** Remembers the places on the board: once VFIO has a GPU, nothing on the host tells its own any more. */
  noteModules(moduleIds: ReadonlyMap<string, number>): Promise<void>;
  join(gpuUuids: readonly string[], owner: string, signal: AbortSignal): Promise<Facts>;
  leave(owner: string, signal: AbortSignal): Promise<void>;
}

const schema = z.object({
  /** Of every GPU that was ever seen here, by UUID. */
  moduleIds: z.record(z.string(), z.int()),
  /** Which partition each slice has, by the slice's short name. */
  partitions: z.record(z.string(), z.int()),
});
type State = z.infer<typeof schema>;
const PATH = "fabric.json";

export function makeFabricSlots(deps: {
  readonly manager: FabricManager;
  readonly files: StateFiles;
  readonly present: (signal: AbortSignal) => Promise<readonly string[]>;
}): FabricSlots {
  const { manager, files } = deps;
  const inTurn = oneAtATime();
  const read = async (): Promise<State> =>
    schema.parse(JSON.parse((await files.read(PATH)) ?? '{"moduleIds":{},"partitions":{}}'));
  const write = async (state: State): Promise<void> => await files.replace(PATH, JSON.stringify(state, null, 2));
  /** One change at a time: partitions exclude each other. */
  const change = async <T>(work: (state: State) => Promise<T>): Promise<T> =>
    await inTurn(async () => await work(await read()));
  return {
    noteModules: async (seen) => {
      if (seen.size === 0) return;
      await change(async (state) => {
        const moduleIds = { ...state.moduleIds, ...Object.fromEntries(seen) };
        if (JSON.stringify(moduleIds) !== JSON.stringify(state.moduleIds)) await write({ ...state, moduleIds });
      });
    },
    join: async (gpuUuids, owner, signal) =>
      await change(async (state) => {
        await remindManager(manager, state, signal);
        const board = await deps.present(signal);
        const partition = await manager.activate(
          { moduleIds: modulesOf(state, gpuUuids), boardModuleIds: modulesOf(state, board) },
          signal,
        );
        await write({ ...state, partitions: { ...state.partitions, [owner]: partition.partitionId } });
        return { partitionId: partition.partitionId, moduleIds: partition.moduleIds };
      }),
    leave: async (owner, signal) =>
      await change(async (state) => {
        const { [owner]: partitionId, ...partitions } = state.partitions;
        if (partitionId === undefined) return;
        await remindManager(manager, { ...state, partitions }, signal);
        await manager.deactivate(partitionId, signal);
        await write({ ...state, partitions });
      }),
  };
}

/** A Fabric Manager that was restarted has forgotten what running slices have, and would give it away. */
async function remindManager(manager: FabricManager, { partitions }: State, signal: AbortSignal): Promise<void> {
  const held = Object.values(partitions);
  if (held.length === 0) return;
  const active = new Set(
    (await manager.list(signal)).filter(({ isActive }) => isActive).map(({ partitionId }) => partitionId),
  );
  if (held.some((id) => !active.has(id))) await manager.restore(held, signal);
}

function modulesOf({ moduleIds }: State, gpuUuids: readonly string[]): number[] {
  return gpuUuids.map((uuid) => {
    const id = moduleIds[uuid];
    if (id === undefined)
      throw new AppError("gpu_unavailable", {
        detail: `The driver did not tell where ${uuid} is on the NVSwitch board (platform.module_id): update the driver.`,
        facts: { gpuUuids: [uuid] },
      });
    return id;
  });
}
