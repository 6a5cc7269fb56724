import { systemClock } from "@hostler/shared/clock.ts";
import { expect, test } from "vitest";
import { streamAnswer } from "./stream-answer.ts";

test("a reader that leaves while nothing happens is not taken for a failure", async () => {
  const left = new AbortController();
  async function* pieces(): AsyncGenerator<string, void> {
    yield "first";
    waits.resolve();
    await systemClock.sleep(60_000, left.signal).catch(() => "the reader left");
    generatorEnded.resolve();
  }
  const waits = Promise.withResolvers<void>();
  const generatorEnded = Promise.withResolvers<void>();
  const cuts: string[] = [];
  let closed = 0;
  const stream = streamAnswer({
    pieces: pieces(),
    clock: systemClock,
    stallMs: 60_000,
    cut: (reason) => void cuts.push(reason),
    onClose: () => {
      closed += 1;
      left.abort();
    },
  });
  const reader = stream.getReader();
  expect(new TextDecoder().decode((await reader.read()).value)).toBe("first");
  const next = reader.read();
  await waits.promise;
  await reader.cancel();
  await generatorEnded.promise;
  expect(await next).toMatchObject({ done: true });
  await new Promise<void>((resolve) => setImmediate(resolve));
  expect({ cuts, closed }).toEqual({ cuts: [], closed: 1 });
});
