import { expect, test } from "vitest";
import { PROTOCOL_HISTORY, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN } from "./node-protocol.ts";

test("the version that both sides speak is the last one of the history, and none is left out", () => {
  const versions = PROTOCOL_HISTORY.map((line) => line.version);
  expect(versions).toEqual(Array.from({ length: PROTOCOL_VERSION }, (_, index) => index + 1));
  expect(versions).toContain(PROTOCOL_VERSION_MIN);
});
