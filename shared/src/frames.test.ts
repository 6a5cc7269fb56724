import fc from "fast-check";
import { expect, test } from "vitest";
import {
  decodeExit,
  decodeFrame,
  decodeSize,
  encodeExit,
  encodeFrame,
  encodeSize,
  FRAME_BODY_BYTES_MAX,
  FRAME_TYPES,
  type FrameType,
} from "./frames.ts";

const types = Object.keys(FRAME_TYPES) as FrameType[];

test("a frame survives its bytes", () => {
  const offsets = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER });
  fc.assert(
    fc.property(fc.constantFrom(...types), offsets, fc.uint8Array({ maxLength: 300 }), (type, offset, body) => {
      const frame = decodeFrame(encodeFrame(type, offset, body));
      expect(frame).toEqual({ type, offset, body });
    }),
  );
});

test("rubbish is no frame, and never an exception", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => void decodeFrame(bytes)));
  expect(decodeFrame(new Uint8Array(11))).toBeNull();
  expect(decodeFrame(encodeFrame("input", 0, new Uint8Array(FRAME_BODY_BYTES_MAX + 1)))).toBeNull();
  const huge = encodeFrame("input", 0);
  huge.fill(0xff, 4);
  expect(decodeFrame(huge)).toBeNull();
});

test("sizes are clamped to what every emulator bears", () => {
  for (const [cols, rows, expected] of [
    [0, 0, { cols: 2, rows: 1 }],
    [1e9, -5, { cols: 1000, rows: 1 }],
    [Number.NaN, 2.9, { cols: 2, rows: 2 }],
  ] as const) {
    expect(decodeSize(encodeSize(cols, rows))).toEqual(expected);
  }
  expect(decodeSize(new Uint8Array(3))).toBeNull();
});

test("an exit keeps its sign", () => {
  expect(decodeExit(encodeExit(-1, 9))).toEqual({ exitCode: -1, signal: 9 });
  expect(decodeExit(new Uint8Array(7))).toBeNull();
});
