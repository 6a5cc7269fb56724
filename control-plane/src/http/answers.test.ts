import { systemClock } from "@hostler/shared/clock.ts";
import { Hono } from "hono";
import { expect, test } from "vitest";
import { openLog } from "../log.ts";
import { installErrorAnswers, requestContext } from "./answers.ts";
import type { EnrolEnv } from "./node-apps.ts";

const log = openLog("silent");
const ASKED = "asked-by-the-client";

/** Answers of every making: by the context, by hand, none. `made` is what the handler returned. */
function makeApp(made: Response[] = []): Hono<EnrolEnv> {
  const app = new Hono<EnrolEnv>();
  installErrorAnswers(app, log);
  app.use(requestContext({ clock: systemClock, log }));
  app.get("/json", (c) => {
    const answer = c.json({ id: c.var.requestId });
    made.push(answer);
    return answer;
  });
  app.get("/by-hand", () => new Response("by hand"));
  app.get("/broken", () => {
    throw new Error("a bug");
  });
  return app;
}

test.each(["/json", "/by-hand", "/broken", "/nowhere"])(
  "the answer of %s says which request it is for",
  async (path) => {
    const answer = await makeApp().request(path, { headers: { "x-request-id": ASKED } });
    expect(answer.headers.get("x-request-id")).toBe(ASKED);
  },
);

test("an id that is not sane is replaced", async () => {
  const answer = await makeApp().request("/json", { headers: { "x-request-id": "{}" } });
  expect(answer.headers.get("x-request-id")).toMatch(/^req_/);
});

test("an answer goes out as it was made: made anew it would be a stream, which costs time and memory each time", async () => {
  const made: Response[] = [];
  const answer = await makeApp(made).request("/json");
  expect(answer).toBe(made[0]);
});
