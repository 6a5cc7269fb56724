import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { childrenOf } from "./child-processes.ts";
import { makeRandom, quantile } from "./suite.ts";
import { waitFor } from "./wait-for.ts";

test("a quantile is a number of the set, the median of an odd set its middle", () => {
  expect(quantile([9, 1, 5], 0.5)).toBe(5);
  expect(quantile([1, 2, 3, 4], 0.99)).toBe(4);
  expect(quantile([], 0.5)).toBeNaN();
});

test("the same seed gives the same numbers, another seed others", () => {
  const take = (seed: number): number[] => Array.from({ length: 5 }, makeRandom(seed));
  expect(take(7)).toEqual(take(7));
  expect(take(7)).not.toEqual(take(8));
  for (const number of take(9)) expect(number >= 0 && number < 1).toBe(true);
});

const SUITE = `
import { spawn } from "node:child_process";
import { runNamedSuite } from ${JSON.stringify(fileURLToPath(new URL("suite.ts", import.meta.url)))};
const run = async () => {
  spawn("sleep", ["1000"]);
  spawn("sh", ["-c", "trap 'exec sleep 0.3' INT; while :; do sleep 0.05; done"]);
  return await new Promise(() => setInterval(() => undefined, 1000));
};
await runNamedSuite("test", { endless: async () => ({ about: "", run }) });
`;

test.each(["SIGINT", "SIGTERM"] as const)("a suite that gets %s takes along what it started", async (signal) => {
  const suite = spawn(process.execPath, ["--no-warnings", "--input-type=module", "--eval", SUITE, "--", "endless"]);
  const children = await waitFor("its programs", async () => {
    const found = childrenOf(suite.pid ?? 0);
    return found.length === 2 && found;
  });
  suite.kill(signal);
  expect(await once(suite, "exit")).toEqual([130, null]);
  for (const pid of children) expect(() => process.kill(pid, 0)).toThrow("ESRCH");
});
