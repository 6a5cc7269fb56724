import type { Sql, Tx } from "@hostler/control-plane/db/sql.ts";
import type { SimulationDatabase } from "./database.ts";
import type { Randomness } from "./randomness.ts";
import type { Actor, Scheduler } from "./scheduler.ts";

/**
 * The pool of one replica. Each statement, and each transaction as a whole, is one event: real lock waits would make the order
 * depend on the machine. Between them anything may happen; inside a transaction the replica may die between two statements, the
 * connection may break, and after the commit either may happen before anybody learns of it.
 */
export interface DatabaseFaults {
  readonly random: Randomness;
  /** The database cannot be reached at all. */
  isAway: boolean;
  /** Chance that a connection breaks around one transaction or statement. */
  breaks: number;
  /** The next transaction of this replica does not survive: it dies between two statements, before or after the commit. */
  doomed: { readonly actor: Actor; statementsLeft: number } | null;
  injected: number;
}

export interface SqlParts {
  readonly database: SimulationDatabase;
  readonly scheduler: Scheduler;
  readonly faults: DatabaseFaults;
  /** Ends a replica: nothing of it goes on. */
  kill(actor: Actor, how: string): void;
}

const LATENCY_MS = { least: 0.3, most: 3 };
/** A statement of a busy database. */
const SLOW = { chance: 0.01, mostMs: 900 };

/** What became of work whose replica died in it. */
const DIED = Symbol("died");

export function makeSimulatedSql(parts: SqlParts, actor: Actor): Sql {
  const { database, scheduler, faults } = parts;
  const latency = (): number =>
    faults.random.chance(SLOW.chance)
      ? faults.random.between(0, SLOW.mostMs)
      : faults.random.between(LATENCY_MS.least, LATENCY_MS.most);
  const submit = async <Result>(label: () => string, work: () => Promise<Result | typeof DIED>): Promise<Result> =>
    await new Promise<Result>((resolve, reject) => {
      const reply = (act: () => void): void => void scheduler.after(latency() / 2, actor, act);
      scheduler.after(latency() / 2, null, async () => {
        // What a dead replica had already sent may still be done.
        if (!actor.isAlive && faults.random.chance(0.5)) return;
        try {
          if (faults.isAway) throw connectionError("ECONNREFUSED");
          const result = await work();
          scheduler.trace.add(actor.name, label());
          if (result !== DIED) reply(() => resolve(result));
        } catch (error) {
          scheduler.trace.add(actor.name, `${label()}: ${error instanceof Error ? error.name : "failed"}`);
          reply(() => reject(error));
        }
      });
    });
  const sql = makeTag(database.sql, async (query, label) => {
    return await submit(
      () => label,
      async () => {
        if (breaksNow(faults)) throw connectionError("CONNECTION_CLOSED");
        database.stamp(scheduler);
        return await query.execute();
      },
    );
  });
  const begin = async <Result>(work: (tx: Tx) => Promise<Result>): Promise<Result> => {
    const labels: string[] = [];
    return await submit(
      () => `transaction: ${labels.join(" | ")}`,
      async () => {
        if (!actor.isAlive) return DIED;
        database.stamp(scheduler, "begin");
        return await transact({ ...parts, actor, labels }, work);
      },
    );
  };
  return Object.assign(sql, { begin, json: database.sql.json.bind(database.sql) }) as unknown as Sql;
}

/** Runs the work between `begin` and `commit`, with what may go wrong on the way. */
async function transact<Result>(
  parts: SqlParts & { readonly actor: Actor; readonly labels: string[] },
  work: (tx: Tx) => Promise<Result>,
): Promise<Result | typeof DIED> {
  const { database, faults, actor } = parts;
  const died = Promise.withResolvers<typeof DIED>();
  const doom = faults.doomed?.actor === actor ? faults.doomed : null;
  if (doom !== null) faults.doomed = null;
  const die = (how: string): void => {
    parts.kill(actor, how);
    died.resolve(DIED);
  };
  const breaksAt = breaksNow(faults) ? faults.random.whole(0, 12) : Infinity;
  let count = 0;
  let isReading = true;
  const tx = makeTx(database.sql, async (query, label) => {
    count += 1;
    parts.labels.push(label);
    if (!label.startsWith("select")) isReading = false;
    if (doom !== null && doom.statementsLeft < count) {
      die(`in a transaction, before its statement ${count}`);
      return await new Promise<never>(() => undefined);
    }
    if (count > breaksAt) throw connectionError("CONNECTION_CLOSED");
    return await query.execute();
  });
  const rollback = async (): Promise<void> => void (await database.sql.unsafe("rollback"));
  try {
    const outcome = await Promise.race([work(tx).then((result) => ({ result })), died.promise]);
    if (outcome === DIED) {
      await rollback();
      return DIED;
    }
    if (isReading) database.endReading();
    else await database.sql.unsafe("commit");
    if (doom !== null) die("after a commit that it never heard of");
    // The commit is there, and its answer is not.
    if (breaksAt !== Infinity && actor.isAlive) throw new CommitUnknown();
    return outcome.result;
  } catch (error) {
    if (error instanceof CommitUnknown) throw connectionError("CONNECTION_CLOSED");
    await rollback();
    throw error;
  }
}

class CommitUnknown extends Error {}

function breaksNow(faults: DatabaseFaults): boolean {
  if (faults.breaks === 0 || !faults.random.chance(faults.breaks)) return false;
  faults.injected += 1;
  return true;
}

function connectionError(code: string): Error {
  return Object.assign(new Error("The connection to the database broke."), { code });
}

type Query = PromiseLike<unknown> & { execute(): Promise<unknown> };
type Execute = (query: Query, label: string) => Promise<unknown>;

/** What a tag makes of a template: runs when it is awaited, and can stand in another template before that. */
class SimulatedQuery implements PromiseLike<unknown> {
  readonly query: Query;
  readonly #execute: () => Promise<unknown>;
  #running: Promise<unknown> | null = null;

  constructor(query: Query, execute: () => Promise<unknown>) {
    this.query = query;
    this.#execute = execute;
  }

  // oxlint-disable-next-line unicorn/no-thenable -- It stands for the lazy query of the driver, which is one.
  then<A, B>(
    resolve?: ((value: unknown) => A | PromiseLike<A>) | null,
    reject?: ((error: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    this.#running ??= this.#execute();
    return this.#running.then(resolve, reject);
  }

  catch<B>(reject: (error: unknown) => B | PromiseLike<B>): Promise<unknown> {
    return this.then((value) => value, reject);
  }

  finally(act: () => void): Promise<unknown> {
    return this.then((value) => value).finally(act);
  }
}

/** The tag function of the driver, with another way to run what it made. Helpers such as `sql(names)` are its own. */
function makeTag(real: Sql, execute: Execute) {
  return (first: unknown, ...rest: unknown[]): unknown => {
    const call = real as unknown as (...values: unknown[]) => unknown;
    if (!isTemplate(first)) return call(first, ...rest);
    const values = rest.map((value) => (value instanceof SimulatedQuery ? value.query : value));
    const query = call(first, ...values) as Query;
    return new SimulatedQuery(query, async () => await execute(query, labelOf(first, values)));
  };
}

function makeTx(real: Sql, execute: Execute): Tx {
  const tag = makeTag(real, execute);
  let savepoints = 0;
  const savepoint = async (first: unknown, second?: unknown): Promise<unknown> => {
    const work = (second ?? first) as (tx: Tx) => Promise<unknown>;
    savepoints += 1;
    const name = `s${savepoints}`;
    await real.unsafe(`savepoint ${name}`);
    try {
      const result = await work(tx);
      await real.unsafe(`release savepoint ${name}`);
      return result;
    } catch (error) {
      await real.unsafe(`rollback to savepoint ${name}`);
      throw error;
    }
  };
  const tx = Object.assign(tag, { savepoint, json: real.json.bind(real) }) as unknown as Tx;
  return tx;
}

function isTemplate(value: unknown): value is TemplateStringsArray {
  return Array.isArray(value) && "raw" in value;
}

/** A template is one object however often it runs, and its text is long. */
const wordsOf = new WeakMap<TemplateStringsArray, string>();

/** The first words of a statement and the ids that it is about: enough to read a trace by. */
function labelOf(strings: TemplateStringsArray, values: readonly unknown[]): string {
  const words = wordsOf.get(strings) ?? strings.join("?").replaceAll(/\s+/g, " ").trim().slice(0, 36);
  wordsOf.set(strings, words);
  const ids = values.flat().filter((value) => typeof value === "string" && ID.test(value));
  return ids.length === 0 ? words : `${words} [${ids.slice(0, 4).join(" ")}]`;
}

const ID = /^[a-z]{2,4}_[0-9a-f]{8}-/;
