import { expect, test } from "vitest";
import { parsePlainJson } from "./plain-json.ts";
import { fenceSchema } from "./tasks.ts";

test("what PostgreSQL cannot keep is replaced, in values and in keys", () => {
  const text = String.raw`{"a\u0000":["x\u0000y",{"b":"\ud83d"}],"c":"\ud83d\ude00","d":"\\u0000"}`;
  const replaced = { "a\ufffd": ["x\ufffdy", { b: "\ufffd" }], c: "\u{1f600}", d: "\\u0000" };
  expect(parsePlainJson(text)).toEqual(replaced);
});

test("what a terminal would obey is replaced, however it is spelled; lines and tabs stay", () => {
  const hostile = ["\u001b[2J", "\u009b2J", "\u007f", "\b", "\f", "\r", "\u0085"];
  for (const text of hostile) expect(parsePlainJson(JSON.stringify([text]))).toEqual([`\ufffd${text.slice(1)}`]);
  expect(parsePlainJson(String.raw`["\u001B]0;x\u0007"]`)).toEqual(["\ufffd]0;x\ufffd"]);
  expect(parsePlainJson(JSON.stringify(["one\r\ntwo\n\tthree"]))).toEqual(["one\ntwo\n\tthree"]);
});

test("everything else is parsed as it is", () => {
  expect(parsePlainJson('{"a":[1,null,true,"é"]}')).toEqual({ a: [1, null, true, "é"] });
  expect(() => parsePlainJson("{")).toThrow(SyntaxError);
});

test("a fence is a number that a bigint column holds", () => {
  expect(fenceSchema.safeParse("9223372036854775807").success).toBe(true);
  for (const text of ["9223372036854775808", "9999999999999999999", "", "-1", "1.0", "0x1"])
    expect(fenceSchema.safeParse(text).success).toBe(false);
});
