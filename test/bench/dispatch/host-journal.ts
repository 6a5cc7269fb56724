import { open } from "node:fs/promises";

/** One append-only file for what many scripted hosts write ahead. */
export interface HostJournal {
  /** Resolves when the text would survive a power cut. Those who wait at the same time share one sync. */
  append(text: string): Promise<void>;
  readonly syncs: number;
}

export async function openHostJournal(path: string): Promise<HostJournal> {
  const file = await open(path, "a");
  let pending: string[] = [];
  let next: Promise<void> | null = null;
  let last: Promise<void> = Promise.resolve();
  let syncs = 0;
  const flush = async (): Promise<void> => {
    await last;
    next = null;
    const lines = pending;
    pending = [];
    last = (async () => {
      await file.write(lines.join(""));
      await file.datasync();
      syncs += 1;
    })();
    await last;
  };
  return {
    append: async (text) => {
      pending.push(text);
      next ??= flush();
      await next;
    },
    get syncs() {
      return syncs;
    },
  };
}
