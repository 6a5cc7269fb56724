import { expect, test } from "vitest";
import { makeSharedWork, type Waiter } from "./shared-work.ts";

function makeWaiter(): Waiter & { readonly heard: string[]; leave(): void } {
  const controller = new AbortController();
  const heard: string[] = [];
  return {
    heard,
    signal: controller.signal,
    report: (message) => void heard.push(message),
    leave: () => controller.abort(new Error("left")),
  };
}

test("many waiters share one piece of work, hear of it, and one that leaves does not stop it", async () => {
  const work = makeSharedWork<string>();
  const gate = Promise.withResolvers<void>();
  let starts = 0;
  const doIt = async (shared: Waiter): Promise<string> => {
    starts += 1;
    await gate.promise;
    shared.signal.throwIfAborted();
    shared.report("half");
    return "done";
  };
  const [leaver, stayer] = [makeWaiter(), makeWaiter()];
  const left = work.join("key", leaver, doIt);
  const stayed = work.join("key", stayer, doIt);
  leaver.leave();
  await expect(left).rejects.toThrow("left");
  gate.resolve();
  expect(await stayed).toBe("done");
  expect([starts, leaver.heard, stayer.heard]).toEqual([1, [], ["half"]]);
});

test("work that everybody left is aborted, and a newcomer waits until it has wound up", async () => {
  const work = makeSharedWork<number>();
  const windUp = Promise.withResolvers<void>();
  const order: string[] = [];
  const leaver = makeWaiter();
  const left = work.join("key", leaver, async ({ signal }) => {
    signal.addEventListener("abort", () => order.push("aborted"));
    await windUp.promise;
    order.push("wound up");
    return 1;
  });
  leaver.leave();
  await expect(left).rejects.toThrow("left");
  const next = work.join("key", makeWaiter(), async () => {
    order.push("started again");
    return 2;
  });
  windUp.resolve();
  expect(await next).toBe(2);
  expect(order).toEqual(["aborted", "wound up", "started again"]);
});

test("a failure reaches every waiter, and the next one starts anew", async () => {
  const work = makeSharedWork<number>();
  const fail = async (): Promise<number> => {
    throw new Error("broken");
  };
  const results = await Promise.allSettled([
    work.join("key", makeWaiter(), fail),
    work.join("key", makeWaiter(), fail),
  ]);
  expect(results.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
  expect(await work.join("key", makeWaiter(), async () => 1)).toBe(1);
});
