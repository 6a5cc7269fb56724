import { systemClock } from "@hostler/shared/clock.ts";
import { describe, expect, test } from "vitest";
import { makeTestAuthority } from "../identity/test-control-plane.ts";
import { measureClock } from "./measure-clock.ts";
import { closedAddress, examine, makeEnrolledHost, makeShiftedClock, startPlane } from "./test-host.ts";

const HOUR_MS = 3_600_000;
const authority = makeTestAuthority();

describe("a clock that is compared with the control plane's", () => {
  test.each([
    ["behind", -HOUR_MS - 60_000, "61.0 min behind the control plane", "begins at"],
    ["ahead of", HOUR_MS + 60_000, "61.0 min ahead of the control plane", "expired at"],
  ])(
    "%s by an hour is measured although no certificate is good at its time",
    async (_word, offMs, text, certificate) => {
      const { address, seen } = await startPlane(authority);
      const report = await examine(await makeEnrolledHost(authority, address), { clock: makeShiftedClock(offMs) });
      expect(report.of("clock")).toMatchObject([
        { verdict: "problem", text: expect.stringContaining(text), remedy: expect.stringContaining("timedatectl") },
      ]);
      expect(report.of("certificate")).toMatchObject([{ text: expect.stringContaining(certificate) }]);
      expect(report.of("server")[0]).toMatchObject({ text: expect.stringContaining(certificate) });
      expect(seen.some(({ hasCertificate }) => hasCertificate)).toBe(false);
    },
  );

  test.each([
    [0, "ok"],
    [-20_000, "ok"],
    [60_000, "warning"],
    [-299_000, "warning"],
    [301_000, "problem"],
  ])("off by %d ms is %s", async (offMs, verdict) => {
    const { address } = await startPlane(authority);
    const report = await examine(await makeEnrolledHost(authority, address), { clock: makeShiftedClock(offMs) });
    expect(report.of("clock")).toMatchObject([{ verdict }]);
  });

  test("of a stranger says nothing", async () => {
    const { address } = await startPlane(makeTestAuthority(), { shiftMs: HOUR_MS });
    const report = await examine(await makeEnrolledHost(authority, address));
    expect(report.of("clock")).toMatchObject([{ verdict: "skipped" }]);
  });
});

describe("a clock without a control plane to compare with", () => {
  test("is left alone when nothing contradicts it", async () => {
    const report = await examine(await makeEnrolledHost(authority, await closedAddress()));
    expect(report.of("clock")).toMatchObject([{ verdict: "skipped" }]);
  });

  test("is wrong when it is before the certificate was made", async () => {
    const clock = makeShiftedClock(-2 * HOUR_MS);
    const report = await examine(await makeEnrolledHost(authority, await closedAddress()), { clock });
    expect(report.of("clock")).toMatchObject([
      { verdict: "problem", text: expect.stringContaining("before this host's certificate was made") },
    ]);
  });

  test("is wrong when it is before the agent was made, also on a host that is not enrolled", async () => {
    const builtAt = new Date();
    const report = await examine("/nonexistent/hostler", { builtAt, clock: makeShiftedClock(-HOUR_MS) });
    expect(report.of("clock")).toMatchObject([
      { verdict: "problem", text: expect.stringContaining("before this version of the agent was made") },
    ]);
  });
});

test("a connection that breaks after one answer still tells the second", async () => {
  let answers = 0;
  const askDate = async () => (answers++ === 0 ? new Date(Math.floor(Date.now() / 1000) * 1000 - 60_000) : null);
  const measured = await measureClock(systemClock, askDate);
  expect(measured?.uncertaintyMs).toBeLessThan(600);
  expect(Math.abs((measured?.offsetMs ?? NaN) - 60_000)).toBeLessThan(1100);
});

test("the offset is found to less than 0.3 s, whatever the offset and the way's length", async () => {
  for (const [offsetMs, roundTripMs] of [
    [-12_345, 1],
    [999, 40],
    [7_200_500, 200],
  ] as const) {
    let nowMs = 1_700_000_000_123;
    const clock = {
      now: () => new Date(nowMs),
      monotonicMs: () => nowMs,
      sleep: async (ms: number) => void (nowMs += ms),
    };
    const askDate = async (): Promise<Date> => {
      nowMs += roundTripMs;
      return new Date(Math.floor((nowMs - roundTripMs / 2 - offsetMs) / 1000) * 1000);
    };
    const measured = await measureClock(clock, askDate);
    expect(Math.abs((measured?.offsetMs ?? NaN) - offsetMs)).toBeLessThanOrEqual(measured?.uncertaintyMs ?? NaN);
    expect(measured?.uncertaintyMs).toBeLessThan(300);
  }
});
