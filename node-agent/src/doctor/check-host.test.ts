import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { readBootId } from "../host/facts.ts";
import { lockStateDir } from "../host/state-lock.ts";
import { makeTestAuthority } from "../identity/test-control-plane.ts";
import { closedAddress, examine, makeEnrolledHost, makeStateDir } from "./test-host.ts";

const authority = makeTestAuthority();

describe("the host", () => {
  test("without QEMU is a problem with the packages to install", async () => {
    const find = async (name: string) => (name.startsWith("qemu") ? null : name);
    expect((await examine(await makeStateDir(), { find })).of("programs")).toMatchObject([
      { verdict: "problem", remedy: "apt-get install qemu-system-x86 qemu-utils" },
    ]);
  });

  test("without nft is a warning for root, who alone makes taps", async () => {
    const find = async (name: string) => (name === "nft" ? null : name);
    const stateDir = await makeStateDir();
    expect((await examine(stateDir, { find, userId: 0 })).of("programs")).toMatchObject([
      { verdict: "warning", text: "not installed: nft" },
    ]);
    expect((await examine(stateDir, { find, userId: 1000 })).of("programs")).toMatchObject([{ verdict: "ok" }]);
  });

  test("without its devices is a warning", async () => {
    const devices = { kvm: "/nonexistent/kvm", tun: "/nonexistent/tun" };
    const report = await examine(await makeStateDir(), { devices, userId: 0 });
    expect(report.of("kvm")).toMatchObject([{ verdict: "warning", remedy: expect.stringContaining("modprobe kvm") }]);
    expect(report.of("tun")).toMatchObject([{ verdict: "warning", remedy: "modprobe tun" }]);
  });

  test("whose KVM failed the agent's test machine since the boot is a warning", async () => {
    const stateDir = await makeStateDir();
    const verdict = { bootId: await readBootId(), accelerator: "tcg", reason: "a test machine failed on it" };
    await writeFile(join(stateDir, "accelerator.json"), JSON.stringify(verdict));
    expect((await examine(stateDir)).of("kvm")).toMatchObject([{ verdict: "warning", text: verdict.reason }]);
  });
});

describe("the agent", () => {
  test("that does not run on an enrolled host is a warning", async () => {
    const report = await examine(await makeEnrolledHost(authority, await closedAddress()));
    expect(report.of("agent")).toMatchObject([{ verdict: "warning" }]);
    expect(report.of("loops")).toMatchObject([{ verdict: "skipped" }]);
  });

  test("that runs is named, and its loops say how they do", async () => {
    const stateDir = await makeEnrolledHost(authority, await closedAddress());
    const lock = await lockStateDir(stateDir);
    const since = "2026-11-21T08:00:00.000Z";
    const statuses = [
      { name: "inventory", text: "sent: 8 GPUs, 0 unhealthy", since },
      { name: "poll", text: "control plane away: service_unavailable", since },
    ];
    await writeFile(join(stateDir, "status.json"), JSON.stringify(statuses));
    const report = await examine(stateDir);
    expect(report.of("agent")).toMatchObject([{ verdict: "ok", text: expect.stringContaining(String(process.pid)) }]);
    expect(report.of("loops")).toMatchObject([{ verdict: "ok" }, { verdict: "warning" }]);
    await writeFile(join(stateDir, "status.json"), "[{");
    expect((await examine(stateDir)).of("loops")).toMatchObject([
      { verdict: "warning", text: expect.stringContaining("cannot be read") },
    ]);
    await lock.release();
  });
});
