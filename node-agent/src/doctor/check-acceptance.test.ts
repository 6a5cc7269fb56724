import { AppError, ERRORS, type ErrorCode } from "@hostler/shared/errors.ts";
import { problemOf } from "@hostler/shared/problem.ts";
import { describe, expect, test } from "vitest";
import { makeTestAuthority } from "../identity/test-control-plane.ts";
import { examine, makeEnrolledHost, startPlane, type PlaneAnswer, type Report, type Seen } from "./test-host.ts";

const authority = makeTestAuthority();

async function reportOf(answer: PlaneAnswer): Promise<Report & { readonly seen: readonly Seen[] }> {
  const { address, seen } = await startPlane(authority, { answer });
  return { ...(await examine(await makeEnrolledHost(authority, address))), seen };
}

describe("a node", () => {
  test("that is known is accepted, by one GET of what is not there", async () => {
    const { seen, ...report } = await reportOf("not_found");
    expect(report.of("accepted")).toMatchObject([{ verdict: "ok" }]);
    expect(seen.filter(({ hasCertificate }) => hasCertificate)).toEqual([
      { method: "GET", path: "/node/v1/doctor", hasCertificate: true },
    ]);
  });

  test.each<ErrorCode>([
    "certificate_missing",
    "certificate_expired",
    "certificate_not_yet_valid",
    "certificate_untrusted",
    "certificate_inactive",
    "node_revoked",
  ])("that is refused with %s is told so, with the server's remedy", async (code) => {
    expect((await reportOf(code)).of("accepted")).toMatchObject([
      {
        verdict: "problem",
        text: `the control plane says: ${ERRORS[code].title}: as the test says (${code})`,
        remedy: ERRORS[code].remedy,
      },
    ]);
  });

  test("that a newer server refuses for a reason unknown here reads that server's remedy", async () => {
    const newer = { ...problemOf(new AppError("node_revoked"), "req"), code: "node_asleep", remedy: "Wake it up." };
    expect((await reportOf(newer)).of("accepted")).toMatchObject([
      { verdict: "problem", text: expect.stringContaining("(node_asleep)"), remedy: "Wake it up." },
    ]);
  });

  test("that a server cannot judge now is a warning: it is not this host's to mend", async () => {
    expect((await reportOf("service_unavailable")).of("accepted")).toMatchObject([{ verdict: "warning" }]);
  });

  test("whose answer is no problem details has talked to something else", async () => {
    expect((await reportOf("a page of HTML")).of("accepted")).toMatchObject([
      { verdict: "problem", text: expect.stringContaining("HTTP 502") },
    ]);
  });
});
