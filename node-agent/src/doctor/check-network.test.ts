import { spawn } from "node:child_process";
import { once } from "node:events";
import { connect } from "node:net";
import { describe, expect, onTestFinished, test } from "vitest";
import { makeTestAuthority } from "../identity/test-control-plane.ts";
import { tcpFaultOf } from "./sockets.ts";
import { closedAddress, examine, makeEnrolledHost, startPlane } from "./test-host.ts";

const authority = makeTestAuthority();

function resolverError(code: string): Error {
  return Object.assign(new Error(`getaddrinfo ${code} cloud.test`), { code });
}

/** A listener whose queue is full: the kernel drops what comes, as a firewall does. */
async function startDropper(): Promise<string> {
  const script =
    'const s = require("net").createServer().listen({ port: 0, host: "127.0.0.1", backlog: 1 }, () => console.log(s.address().port))';
  const child = spawn(process.execPath, ["-e", script], { stdio: ["ignore", "pipe", "inherit"] });
  const [line] = (await once(child.stdout, "data")) as [Buffer];
  const port = Number(line.toString());
  child.kill("SIGSTOP");
  const fillers = Array.from({ length: 6 }, () => connect({ port, host: "127.0.0.1" }).on("error", () => undefined));
  onTestFinished(() => {
    for (const filler of fillers) filler.destroy();
    child.kill("SIGKILL");
  });
  await Promise.any(fillers.slice(0, 2).map(async (filler) => await once(filler, "connect")));
  return `127.0.0.1:${port}`;
}

describe("a name", () => {
  test.each([
    ["ENOTFOUND", "not a name that the resolver knows", "DNS record"],
    ["EAI_AGAIN", "the resolver gave no answer for cloud.test (EAI_AGAIN)", "/etc/resolv.conf"],
  ])("that ends in %s is a problem, and nothing is dialled", async (code, text, remedy) => {
    const resolve = async (): Promise<never> => await Promise.reject(resolverError(code));
    const report = await examine(await makeEnrolledHost(authority, "cloud.test:7444"), { resolve });
    expect(report.of("dns")).toMatchObject([
      { verdict: "problem", text: expect.stringContaining(text), remedy: expect.stringContaining(remedy) },
    ]);
    for (const check of ["port", "server"])
      expect(new Set(report.of(check).map(({ verdict }) => verdict))).toEqual(new Set(["skipped"]));
  });

  test("that the resolver never answers for does not hold the command up", async () => {
    const resolve = async (): Promise<never> => await new Promise<never>(() => undefined);
    const limits = { stepMs: 200, totalMs: 2000 };
    const report = await examine(await makeEnrolledHost(authority, "cloud.test:7444"), { resolve, limits });
    expect(report.of("dns")).toMatchObject([{ verdict: "problem", text: expect.stringContaining("timed out") }]);
  });

  test("that resolves leads to its address, and that alone is dialled", async () => {
    const { address } = await startPlane(authority);
    const host = address.replace("127.0.0.1", "cloud.test");
    const resolve = async () => await Promise.resolve([{ address: "127.0.0.1", family: 4 }]);
    const report = await examine(await makeEnrolledHost(authority, host), { resolve });
    expect(report.of("dns")).toMatchObject([{ verdict: "ok", text: "cloud.test is 127.0.0.1" }]);
    expect(report.of("accepted")).toMatchObject([{ verdict: "ok" }]);
  });
});

describe("a port", () => {
  test("that refuses is told from one that drops", async () => {
    const refused = (await examine(await makeEnrolledHost(authority, await closedAddress()))).of("port");
    expect(refused).toMatchObject([
      { verdict: "problem", text: expect.stringContaining("nothing listens there") },
      { verdict: "warning", matters: expect.stringContaining("works without it") },
    ]);
    const limits = { stepMs: 500, totalMs: 5000 };
    const dropped = (await examine(await makeEnrolledHost(authority, await startDropper()), { limits })).of("port");
    expect(dropped).toMatchObject([
      {
        verdict: "problem",
        text: expect.stringContaining("are dropped"),
        remedy: expect.stringContaining("firewalls"),
      },
      { verdict: "warning" },
    ]);
  });

  test.each([
    ["ENETUNREACH", "unreachable"],
    ["EHOSTUNREACH", "unreachable"],
    ["EPERM", "forbidden"],
    ["ETIMEDOUT", "timed_out"],
    ["ECONNRESET", "broken"],
  ])("whose connection ends with %s is %s", (code, fault) => {
    expect(tcpFaultOf(resolverError(code), false)).toBe(fault);
  });
});
