import * as z from "zod";
import { describe, expect, test } from "vitest";
import type { CommandOptions, HostCommands } from "../../ports/host-commands.ts";
import { listFixtures, readFixture } from "../../testing/fixtures.ts";
import { findGpuEvents } from "./gpu-events.ts";
import { parseKernelLog } from "./parse-kernel-log.ts";
import { normalPciAddress } from "./pci-address.ts";
import { readKernelLog } from "./read-kernel-log.ts";
import { decideXid, isKnownXid } from "./xid-policy.ts";

const hasFixtures = listFixtures("dmesg").length > 0;
const XID = "NVRM: Xid (PCI:0000:3b:00): 79, pid=77, name=python3, GPU has fallen off the bus.";

test.each([
  ["/dev/kmsg", `6,339,5140900,-;${XID}\n SUBSYSTEM=pci\n DEVICE=+pci:0000:3b:00.0\n`, 5_140_900],
  ["dmesg", `[    5.140900] ${XID}\n`, 5_140_900],
  ["dmesg --raw and pstore", `<3>[    5.140900] ${XID}\n`, 5_140_900],
  ["dmesg --time-format iso", `2026-01-05T05:39:15,491363+00:00 ${XID}\n`, null],
  ["dmesg --ctime", `[Sun Feb 23 16:24:18 2025] ${XID}\n`, null],
  [
    "journalctl -k -o json",
    `${JSON.stringify({ MESSAGE: XID, PRIORITY: "3", _SOURCE_MONOTONIC_TIMESTAMP: "5140900" })}\n`,
    5_140_900,
  ],
  [
    "journalctl -k -o json with bytes",
    `${JSON.stringify({ MESSAGE: [...Buffer.from(XID)], __MONOTONIC_TIMESTAMP: "5140900" })}\n`,
    5_140_900,
  ],
])("a lost GPU is read from %s", (_form, log, monotonicUs) => {
  expect(findGpuEvents(parseKernelLog(log))).toEqual([
    { kind: "xid", number: 79, pid: 77, process: "python3", pciAddress: "0000:3b:00.0", monotonicUs, text: XID },
  ]);
});

test("words about a lost GPU that go over three lines are one event", () => {
  const log = [
    "[   18.308145] NVRM: The NVIDIA GPU 0000:b3:00.0",
    "               NVRM: (PCI ID: 10de:26b5) installed in this system has",
    "               NVRM: fallen off the bus and is not responding to commands.",
  ];
  expect(findGpuEvents(parseKernelLog(log.join("\n")))).toEqual([
    expect.objectContaining({ kind: "fallen_off_bus", pciAddress: "0000:b3:00.0", monotonicUs: 18_308_145 }),
  ]);
});

test.each([
  ["NVRM: Xid (PCI:0000:04:00): %d, unknown", { kind: "xid_unreadable", pciAddress: "0000:04:00.0" }],
  ["NVRM: Xid (invalid): some error", { kind: "xid_unreadable", pciAddress: null }],
  ["NVRM: Xid (PCI:0000:01:00): 31, pid='<unknown>', name=<unknown>, x", { kind: "xid", pid: null, process: null }],
  ["nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 12028, Non-fatal, Link 32", { kind: "sxid", isFatal: false }],
  ["nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 19084, Fatal, Link 32", { kind: "sxid", isFatal: true, number: 19_084 }],
  ["nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 19084, What, Link 32", { kind: "sxid", isFatal: true }],
  [
    "NVRM: Attempting to remove device 0000:07:00.0 with non-zero usage count!",
    { kind: "removed_in_use", pciAddress: "0000:07:00.0" },
  ],
  [
    "vfio-pci 0000:01:00.0: Unable to change power state from D3cold to D0, device inaccessible",
    { kind: "stuck_in_d3cold", pciAddress: "0000:01:00.0" },
  ],
  ["nvidia 0000:01:00.0: not ready 65535ms after resume; giving up", { kind: "not_ready", gaveUp: true }],
  ["vfio-pci 0000:01:00.0: not ready 1023ms after FLR; waiting", { kind: "not_ready", gaveUp: false }],
  ["NVRM: GPU 0000:01:00.0: RmInitAdapter failed! (0x22:0x56:667)", { kind: "init_failed" }],
  [
    'vfio-pci 0000:01:00.0: Device is currently in use, task "sh" (404) blocked until device is released',
    { kind: "unbind_blocked", pid: 404, process: "sh" },
  ],
])("%s", (text, expected) => {
  expect(findGpuEvents(parseKernelLog(`<4>[    1.000000] ${text}`))).toEqual([expect.objectContaining(expected)]);
});

test("what is not about a GPU is no event", () => {
  const log = "<6>[    1.0] usb 1-1: new device\n<6>[    1.100000] NVRM: loading NVIDIA UNIX Open Kernel Module\n";
  expect(findGpuEvents(parseKernelLog(log))).toEqual([]);
});

test.each([
  ["PCI:0000:19:00", "0000:19:00.0"],
  ["00000000:19:00.0", "0000:19:00.0"],
  ["0008:01:00", "0008:01:00.0"],
  ["00010000:3B:00.1", "10000:3b:00.1"],
  ["10000:3b:00.1", "10000:3b:00.1"],
  ["19:00.0", "0000:19:00.0"],
  ["invalid", null],
  ["19:00.9", null],
])("the address %s is %s", (text, address) => {
  expect(normalPciAddress(text)).toBe(address);
});

test("an Xid that nobody knows keeps the GPU back", () => {
  expect(decideXid(9999, "")).toMatchObject({ action: "workflow", isBlocking: true });
});

test("every Xid that is published has a decision, and no other number", () => {
  const known = Array.from({ length: 2000 }, (_unused, number) => number).filter(isKnownXid);
  expect(known).toEqual(Array.from({ length: 172 }, (_unused, index) => index + 1));
});

test.each([
  [144, "SAW_MVB Nonfatal XC0", false],
  [144, "SAW_MVB Fatal XC0", true],
  [144, "SAW_MVB", true],
  [154, "GPU recovery action changed from 0x4 (Drain and Reset) to 0x1 (GPU Reset Required)", true],
  [154, "GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)", false],
  [45, "Ch 00000008", false],
])("Xid %i with %j blocks: %s", (number, text, isBlocking) => {
  expect(decideXid(number, text).isBlocking).toBe(isBlocking);
});

const commandsThatPrint = (stdout: string): HostCommands & { readonly asked: CommandOptions[] } => {
  const asked: CommandOptions[] = [];
  return {
    asked,
    run: async (_argv, options) => {
      asked.push(options);
      return { exitCode: 0, stdout: stdout.slice(0, options.outputBytesMax), stderr: "", durationMs: 1 };
    },
  };
};
const signal = new AbortController().signal;

test("the kernel log is read with a deadline and tells its first and its last message", async () => {
  const commands = commandsThatPrint(`<6>[    0.000000] Linux version 6\n<3>[   12.000001] ${XID}\n`);
  const log = await readKernelLog(commands, signal);
  expect(log).toMatchObject({ firstUs: 0, lastUs: 12_000_001, events: [{ number: 79 }] });
  expect(commands.asked[0]?.timeoutMs).toBeLessThanOrEqual(30_000);
});

test("a kernel log that does not fit or has no times is refused", async () => {
  await expect(readKernelLog(commandsThatPrint("x".repeat(17 * 1024 * 1024)), signal)).rejects.toThrow(/more than/);
  await expect(readKernelLog(commandsThatPrint(""), signal)).rejects.toThrow(/no message/);
});

const catalogSchema = z.array(z.object({ code: z.number(), immediate: z.string() }));
/** NVIDIA's words for what to do at once. Those not named need a look. */
const ACTION_OF: Readonly<Record<string, string>> = {
  IGNORE: "none",
  RESTART_APP: "app",
  RESTART_VM: "app",
  RESET_GPU: "reset",
  RESTART_BM: "reboot",
};

describe.skipIf(!hasFixtures)(
  "the recorded catalogue (skipped where the recordings are not beside the repository)",
  () => {
    const catalog = hasFixtures
      ? catalogSchema.parse(JSON.parse(readFixture("catalog/nvidia-xid-catalog-2025-10-29.json")))
      : [];

    test("every entry has a decision that agrees with it", () => {
      expect(catalog).toHaveLength(172);
      for (const { code, immediate } of catalog) {
        expect(isKnownXid(code), `Xid ${code}`).toBe(true);
        // The newest entries have no action yet; ours may be anything.
        if (immediate !== "")
          expect(decideXid(code, "").action, `Xid ${code}`).toBe(ACTION_OF[immediate] ?? "workflow");
      }
    });
  },
);
