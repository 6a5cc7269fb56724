import { oneAtATime } from "@hostler/shared/one-at-a-time.ts";
import { sliceSpecSchema, type SliceSpec } from "@hostler/shared/tasks.ts";
import type { Clock } from "@hostler/shared/clock.ts";
import { UNKEPT_COMMAND_LOG } from "../host/command-log/command-log.ts";
import type { CommandLog, CommandTrail } from "../ports/command-log.ts";
import { sliceFileName, sliceOfFileName } from "./slice-file-name.ts";
import type { SliceReference } from "../ports/slice-driver.ts";
import type { StateFiles } from "../ports/state-files.ts";
import { makeFinishedSlices, type FinishedSlice, type FinishedSlices } from "./finished-slices.ts";
import { addRecord, parseJournal, type JournalRecord, type JournalState } from "./model.ts";

/** A record without its time: the journal knows the clock. */
export type NewRecord = JournalRecord extends infer Each
  ? Each extends JournalRecord
    ? Omit<Each, "at">
    : never
  : never;

/** The journal of one slice. One run at a time holds it; nobody else writes. */
export interface Journal {
  readonly state: JournalState;
  /** Resolves when the record would survive a power cut; only then may the effect that it announces happen. */
  append(record: NewRecord): Promise<void>;
  /** What the tenant asked for; null after it was erased, or when this host never had it. */
  readSpec(): Promise<SliceSpec | null>;
  /** The spec holds keys and user data: it goes before the journal does. */
  eraseSpec(): Promise<void>;
  /** Where the programs are noted that one run of a task starts for the slice. They go with the journal. */
  openTrail(run: { readonly taskId: string; readonly fence: string }): CommandTrail;
  /** One that is closed leaves a line among the finished slices, which is on disk before anything goes. */
  remove(): Promise<void>;
}

export interface JournalStore {
  /** Null when the host knows nothing of the slice. A torn tail is cut off first. */
  open(slice: SliceReference): Promise<Journal | null>;
  create(opened: Omit<Extract<NewRecord, { kind: "opened" }>, "kind">, spec: SliceSpec | null): Promise<Journal>;
  /** Reads without cutting a torn tail: for onlookers while an agent may be writing. */
  peek(slice: SliceReference): Promise<JournalState | null>;
  list(): Promise<readonly SliceReference[]>;
  /** The slices whose journals were closed here and are gone, the newest of them. */
  listFinished(): Promise<readonly FinishedSlice[]>;
  /**
   * Erases specs whose journal was never opened, because the host died between the two writes, and the commands of slices without a
   * journal. Call it before any task runs.
   */
  sweep(): Promise<void>;
}

const FOLDER = "journal";
const JOURNAL_SUFFIX = ".jsonl";
const SPEC_SUFFIX = ".spec.json";

interface JournalDeps {
  readonly files: StateFiles;
  readonly clock: Clock;
  readonly commandLog: CommandLog;
}

export function makeJournalStore(
  given: Omit<JournalDeps, "commandLog"> & { readonly commandLog?: CommandLog },
): JournalStore {
  const deps = { commandLog: UNKEPT_COMMAND_LOG, ...given };
  const { files } = deps;
  const parts = { ...deps, finished: makeFinishedSlices(files) };
  const store: JournalStore = {
    open: async (slice) => {
      const path = journalPath(slice);
      const text = await files.read(path);
      if (text === null) return null;
      const { records, wholeText, isTorn } = parseJournal(text);
      const state = stateOf(records);
      if (state === null) {
        // The very first record was torn: nothing has happened yet.
        await files.remove(specPath(slice));
        await files.remove(path);
        return null;
      }
      if (isTorn) await files.replace(path, wholeText);
      return makeJournal(parts, slice, state);
    },
    peek: async (slice) => stateOf(parseJournal((await files.read(journalPath(slice))) ?? "").records),
    create: async (opened, spec) => {
      if (spec !== null) await files.replace(specPath(opened), JSON.stringify(spec));
      const record: JournalRecord = { kind: "opened", at: deps.clock.now().toISOString(), ...opened };
      await files.append(journalPath(opened), `${JSON.stringify(record)}\n`);
      return makeJournal(parts, opened, addRecord(null, record));
    },
    list: async () => (await files.list(FOLDER)).flatMap(sliceOfFileName),
    listFinished: parts.finished.list,
    sweep: async () => {
      for (const slice of await store.list()) await store.open(slice);
      await deps.commandLog.keepOnly(await store.list());
      const names = await files.list(FOLDER);
      const orphans = names.filter(
        (name) => name.endsWith(SPEC_SUFFIX) && !names.includes(name.replace(SPEC_SUFFIX, JOURNAL_SUFFIX)),
      );
      for (const name of orphans) await files.remove(`${FOLDER}/${name}`);
    },
  };
  return store;
}

function makeJournal(
  deps: JournalDeps & { readonly finished: FinishedSlices },
  slice: SliceReference,
  opened: JournalState,
): Journal {
  let state = opened;
  // After a failed append (a full disk) the file may end in a cut line: the next one must not be glued to it.
  let isTailUnknown = false;
  const write = async (record: NewRecord): Promise<void> => {
    const whole: JournalRecord = { ...record, at: deps.clock.now().toISOString() };
    const line = `${JSON.stringify(whole)}\n`;
    if (isTailUnknown) {
      const { wholeText } = parseJournal((await deps.files.read(journalPath(slice))) ?? "");
      await deps.files.replace(journalPath(slice), wholeText + line);
      isTailUnknown = false;
    } else {
      isTailUnknown = true;
      await deps.files.append(journalPath(slice), line);
      isTailUnknown = false;
    }
    state = addRecord(state, whole);
  };
  // One record at a time: phases that run side by side write to one file.
  const inTurn = oneAtATime();
  return {
    get state() {
      return state;
    },
    append: async (record) => await inTurn(async () => await write(record)),
    readSpec: async () => {
      const text = await deps.files.read(specPath(slice));
      return text === null ? null : sliceSpecSchema.parse(JSON.parse(text));
    },
    eraseSpec: async () => await deps.files.remove(specPath(slice)),
    openTrail: (run) => deps.commandLog.open(slice, run),
    remove: async () => {
      const { allocationId, generation, driver, closed } = state;
      if (closed !== null) await deps.finished.note({ allocationId, generation, driver });
      await deps.commandLog.remove(slice);
      await deps.files.remove(specPath(slice));
      await deps.files.remove(journalPath(slice));
    },
  };
}

function stateOf(records: readonly JournalRecord[]): JournalState | null {
  const [first, ...rest] = records;
  return first === undefined ? null : rest.reduce<JournalState>(addRecord, addRecord(null, first));
}

function journalPath(slice: SliceReference): string {
  return `${FOLDER}/${sliceFileName(slice)}`;
}

function specPath(slice: SliceReference): string {
  return journalPath(slice).replace(JOURNAL_SUFFIX, SPEC_SUFFIX);
}
