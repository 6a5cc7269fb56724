import { expect, test } from "vitest";
import { formatBootstrapToken, hashSecret, makeBootstrapToken, parseBootstrapToken, secretMatches } from "./index.ts";

const token = makeBootstrapToken("p".repeat(43));

test("a token survives its text form", () => {
  expect(parseBootstrapToken(` ${formatBootstrapToken(token)}\n`)).toEqual(token);
});

test("a damaged token is refused without repeating it", () => {
  for (const text of [
    "",
    "hst1.a.b",
    formatBootstrapToken(token).slice(0, -1),
    formatBootstrapToken(token).replace("hst1", "hst2"),
  ]) {
    expect(() => parseBootstrapToken(text)).toThrow(/hst1|parts/);
    expect(() => parseBootstrapToken(text)).not.toThrow(token.secret);
  }
});

test("only the secret matches its hash", () => {
  expect(secretMatches(token.secret, hashSecret(token.secret))).toBe(true);
  expect(secretMatches(makeBootstrapToken("x").secret, hashSecret(token.secret))).toBe(false);
});
