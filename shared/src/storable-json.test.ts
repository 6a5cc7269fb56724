import { expect, test } from "vitest";
import { fenceSchema } from "./tasks.ts";
import { parseStorableJson } from "./storable-json.ts";

test("what PostgreSQL cannot keep is replaced, in values and in keys", () => {
  const text = String.raw`{"a\u0000":["x\u0000y",{"b":"\ud83d"}],"c":"\ud83d\ude00","d":"\\u0000"}`;
  const replaced = { "a\ufffd": ["x\ufffdy", { b: "\ufffd" }], c: "\u{1f600}", d: "\\u0000" };
  expect(parseStorableJson(text)).toEqual(replaced);
});

test("everything else is parsed as it is", () => {
  expect(parseStorableJson('{"a":[1,null,true,"é"]}')).toEqual({ a: [1, null, true, "é"] });
  expect(() => parseStorableJson("{")).toThrow(SyntaxError);
});

test("a fence is a number that a bigint column holds", () => {
  expect(fenceSchema.safeParse("9223372036854775807").success).toBe(true);
  for (const text of ["9223372036854775808", "9999999999999999999", "", "-1", "1.0", "0x1"])
    expect(fenceSchema.safeParse(text).success).toBe(false);
});
