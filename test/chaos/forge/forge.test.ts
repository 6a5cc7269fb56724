import { expect, test } from "vitest";
import { leakedBytes } from "./man-in-the-middle.ts";
import { hostileStrings } from "./hostile-strings.ts";
import { forge } from "./suite.ts";

/** The quick share of `pnpm chaos forge`: every class that does not have to wait, and a thousand mutations. */
test("every forgery is refused, and for the right reason", { timeout: 60_000 }, async () => {
  const lines: string[] = [];
  const outcome = await forge({ mutations: 1000, seed: 11, withSlow: false, say: (line) => void lines.push(line) });
  const { accepted, wrong, crashes, classes } = outcome.tally;
  expect({ accepted, wrong, crashes }).toEqual({ accepted: [], wrong: [], crashes: [] });
  expect(classes).toBeGreaterThan(200);
  expect(outcome).toMatchObject({ mutatedTasks: 1000, mutatedTasksAccepted: 0, secretBytesLeaked: 0 });
});

test("a secret is found in a capture in every dress, and a part of it too", () => {
  const secret = Buffer.from("correct horse battery staple 123").toString("base64url");
  const claims = Buffer.from(`{"x":1,"tokenSecret":"${secret}"}`).toString("base64url");
  const dresses = [secret, Buffer.from(secret, "base64url"), Buffer.from(secret, "base64url").toString("hex"), claims];
  for (const dress of dresses) expect(leakedBytes(Buffer.from(dress), secret)).toBeGreaterThan(20);
  expect(leakedBytes(Buffer.from(`.....${secret.slice(10, 20)}.....`), secret)).toBe(10);
  expect(leakedBytes(Buffer.from("nothing of it"), secret)).toBe(0);
});

test("there are six hundred hostile strings, the same each time", () => {
  expect(new Set(hostileStrings()).size).toBe(600);
  expect(hostileStrings()).toEqual(hostileStrings());
});
