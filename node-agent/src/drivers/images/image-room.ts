import { oneAtATime } from "@hostler/shared/one-at-a-time.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { listCached, removeCached, type CachedFiles } from "./image-files.ts";

/** Keeps the images of a host within their budget: what was used longest ago goes first, what is in use never. */
export interface ImageRoom {
  /** While it is held an image does not go. Resolves with what ends that; waits for a removal of it that is under way. */
  hold(sha256: string): Promise<() => void>;
  /** Before this image takes so many bytes. Rejects with `disk_full` when the budget would be passed all the same. */
  makeRoom(sha256: string, bytes: number): Promise<void>;
  /** Whatever the budget: removes until so many bytes were given back. Resolves with how many were. */
  freeUp(bytes: number): Promise<number>;
  /** What all images take that could go now. */
  unusedBytes(): Promise<number>;
}

interface ImageRoomDeps {
  readonly folder: string;
  readonly budgetBytes: () => Promise<number>;
  /**
   * The images that disks of this host lie over, read from the disks themselves: nothing that is only remembered would survive a
   * restart, and a base that goes takes its disks with it. Rejects when a disk cannot be read; then nothing goes.
   */
  readonly basesInUse: () => Promise<ReadonlySet<string>>;
}

const MIB = 1024 ** 2;

export function makeImageRoom(deps: ImageRoomDeps): ImageRoom {
  const holders = new Map<string, number>();
  const removals = new Map<string, Promise<void>>();
  /** What an image will take, while it is on its way. */
  const expected = new Map<string, number>();

  const remove = async (image: CachedFiles): Promise<void> => {
    const removal = removeCached(image).finally(() => removals.delete(image.sha256));
    removals.set(image.sha256, removal);
    await removal;
  };
  const isFree = ({ sha256 }: CachedFiles, inUse: ReadonlySet<string>): boolean =>
    !holders.has(sha256) && !inUse.has(sha256);
  /** Nobody can begin to hold an image between the question and the removal: both are one step of the event loop. */
  const removeWhile = async (isEnough: (freed: number) => boolean): Promise<number> => {
    let freed = 0;
    if (isEnough(freed)) return freed;
    const inUse = await deps.basesInUse();
    for (const image of await listCached(deps.folder)) {
      if (isEnough(freed)) return freed;
      if (!isFree(image, inUse)) continue;
      await remove(image);
      freed += image.bytes;
    }
    return freed;
  };
  const makeRoom = async (sha256: string, bytes: number): Promise<void> => {
    const budgetBytes = await deps.budgetBytes();
    expected.set(sha256, bytes);
    const taken = takenBytes(await listCached(deps.folder), expected);
    const canFit = bytes <= budgetBytes;
    const freed = canFit ? await removeWhile((soFar) => taken - soFar <= budgetBytes) : 0;
    if (taken - freed <= budgetBytes) return;
    expected.delete(sha256);
    throw new AppError("disk_full", {
      detail: `The image takes ${Math.ceil(bytes / MIB)} MiB; of the ${Math.floor(budgetBytes / MIB)} MiB for images ${Math.ceil((taken - freed - bytes) / MIB)} are in use. Give images more room with --image-cache-gib.`,
    });
  };
  const inTurn = oneAtATime();
  return {
    hold: async (sha256) => {
      holders.set(sha256, (holders.get(sha256) ?? 0) + 1);
      await removals.get(sha256)?.catch(() => "Whoever removes it hears of it.");
      return () => {
        const left = (holders.get(sha256) ?? 1) - 1;
        if (left > 0) return void holders.set(sha256, left);
        holders.delete(sha256);
        expected.delete(sha256);
      };
    },
    // One after another: several that look at once would each find too little, or the same.
    makeRoom: async (sha256, bytes) => await inTurn(async () => await makeRoom(sha256, bytes)),
    freeUp: async (bytes) => await removeWhile((freed) => freed >= bytes),
    unusedBytes: async () => {
      const inUse = await deps.basesInUse();
      const images = await listCached(deps.folder);
      return images.reduce((sum, image) => sum + (isFree(image, inUse) ? image.bytes : 0), 0);
    },
  };
}

function takenBytes(images: readonly CachedFiles[], expected: ReadonlyMap<string, number>): number {
  const taken = new Map(images.map(({ sha256, bytes }) => [sha256, bytes]));
  for (const [sha256, bytes] of expected) taken.set(sha256, Math.max(bytes, taken.get(sha256) ?? 0));
  return [...taken.values()].reduce((sum, bytes) => sum + bytes, 0);
}
