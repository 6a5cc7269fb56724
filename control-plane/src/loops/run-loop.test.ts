import { pino } from "pino";
import { expect, test } from "vitest";
import { runLoop, type Loop } from "./run-loop.ts";

/** What a loop does until its third pause, in order: rounds, pauses, status lines and lines of the log. */
async function traceOf(begin: Loop["begin"], rounds: readonly (string | null | Error)[]): Promise<string[]> {
  const trace: string[] = [];
  const log = pino({ base: null }, { write: (line: string) => void trace.push(`log: ${JSON.parse(line).msg}`) });
  const closing = new AbortController();
  let pauses = 0;
  let at = 0;
  const loop: Loop = {
    begin,
    failure: "it failed",
    round: async () => {
      trace.push("round");
      const outcome = await Promise.resolve(rounds[at++] ?? null);
      if (outcome instanceof Error) throw outcome;
      return outcome;
    },
    pause: async () => {
      trace.push("pause");
      pauses += 1;
      if (pauses === 3) closing.abort(new Error("closing"));
      await Promise.resolve();
      closing.signal.throwIfAborted();
    },
  };
  await runLoop({ log }, { signal: closing.signal, onStatus: (status) => void trace.push(status) }, loop);
  return trace;
}

test("a loop says how each round went, and ends with the signal", async () => {
  expect(await traceOf("with a round", ["one", null, "three"])).toEqual([
    "round",
    "one",
    "pause",
    "round",
    "pause",
    "round",
    "three",
    "pause",
  ]);
  expect(await traceOf("with a pause", ["one", "two"])).toEqual([
    "pause",
    "round",
    "one",
    "pause",
    "round",
    "two",
    "pause",
  ]);
});

test("a round that fails is told, and the next one comes; a database that is away is not logged", async () => {
  const away = Object.assign(new Error("away"), { code: "ECONNREFUSED" });
  expect(await traceOf("with a round", [new Error("a bug"), away, "well"])).toEqual([
    "round",
    "log: it failed",
    "waiting: a bug",
    "pause",
    "round",
    "waiting: away",
    "pause",
    "round",
    "well",
    "pause",
  ]);
});
