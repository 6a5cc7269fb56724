import { Readable } from "node:stream";
import { buffer } from "node:stream/consumers";
import { expect, test } from "vitest";
import { bodyFrom } from "./image-body.ts";

function chunks(...texts: readonly string[]): Readable {
  return Readable.from(texts.map((text) => Buffer.from(text)));
}
const read = async (statusCode: number, contentRange: string | undefined, offset: number): Promise<string> =>
  (await buffer(bodyFrom({ statusCode, contentRange, body: chunks("abc", "def", "gh") }, offset))).toString();

test("a whole answer to a whole question, and the range that was asked for, are taken as they are", async () => {
  expect(await read(200, undefined, 0)).toBe("abcdefgh");
  expect(await read(206, "bytes 8-15/16", 8)).toBe("abcdefgh");
});

test("a server that ignores the range costs the bytes, not the download", async () => {
  expect(await read(200, undefined, 3)).toBe("defgh");
  expect(await read(200, undefined, 4)).toBe("efgh");
  expect(await read(200, undefined, 8)).toBe("");
});

test("an answer that begins elsewhere, or does not say where, is refused", () => {
  for (const contentRange of ["bytes 0-15/16", undefined]) {
    const body = chunks("abc");
    expect(() => bodyFrom({ statusCode: 206, contentRange, body }, 8)).toThrow();
    expect(body.destroyed).toBe(true);
  }
});
