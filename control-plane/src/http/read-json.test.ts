import { Hono } from "hono";
import { pino } from "pino";
import { expect, test } from "vitest";
import * as z from "zod";
import { installErrorAnswers } from "./answers.ts";
import { readJson } from "./read-json.ts";

const app = new Hono<{ Variables: { requestId: string; log: never } }>();
installErrorAnswers(app, pino({ level: "silent" }));
app.post("/", async (c) => c.json(await readJson(c, z.strictObject({ text: z.string() }))));

/** A body that says no length, as chunks over a connection do. */
async function post(chunks: Iterable<string>): Promise<{ readonly status: number; readonly body: unknown }> {
  const body = ReadableStream.from(chunks).pipeThrough(new TextEncoderStream());
  const answer = await app.request("/", { method: "POST", body, duplex: "half" });
  return { status: answer.status, body: await answer.json() };
}

test("a body in chunks is read whole", async () => {
  expect(await post(['{"text":', '"é"}'])).toEqual({ status: 200, body: { text: "é" } });
});

test("a body in chunks is refused at the limit, however much would follow", async () => {
  let sent = 0;
  const endless = function* (): Iterable<string> {
    for (; sent < 1000; sent += 1) yield "x".repeat(65_536);
  };
  expect(await post(endless())).toMatchObject({ status: 413, body: { code: "payload_too_large" } });
  expect(sent).toBeLessThan(100);
});

test("text that PostgreSQL cannot keep is made into text that it can", async () => {
  expect((await post([String.raw`{"text":"a\u0000b\ud800"}`])).body).toEqual({ text: "a\ufffdb\ufffd" });
});
