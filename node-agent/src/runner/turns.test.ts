import { expect, test } from "vitest";
import { makeTurns } from "./turns.ts";

const never = new AbortController().signal;

test("a turn that is tried for is given only when nobody has it or waits, and holds others back like any other", async () => {
  const turns = makeTurns(2);
  const end = turns.tryTake("a");
  expect(end).not.toBeNull();
  expect(turns.tryTake("a")).toBeNull();
  const waiting = turns.take("a", never);
  expect(turns.tryTake("b")).toBeNull();
  end?.();
  const endSecond = await waiting;
  const endThird = turns.tryTake("b");
  expect(endThird).not.toBeNull();
  // As many as may work at once.
  expect(turns.tryTake("c")).toBeNull();
  endThird?.();
  endSecond();
  expect(turns.tryTake("a")).not.toBeNull();
});
