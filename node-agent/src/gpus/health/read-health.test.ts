import { AppError } from "@hostler/shared/errors.ts";
import { expect, test } from "vitest";
import type { HostCommands } from "../../ports/host-commands.ts";
import { HEALTH_FIELDS_ASKED } from "./health-rules.ts";
import { judgeHealth } from "./judge-health.ts";
import { makeHealthReader } from "./read-health.ts";
import { makeEvidence, makeGpu, UUID } from "./testing.ts";

interface Scene {
  version: string;
  known: readonly string[];
  apps: string;
  words: string | null;
  error: Error | null;
  /** Changes the table on its way. */
  spoil: (table: string) => string;
}

/** A driver that answers as nvidia-smi does, from what the scene holds when it is asked. */
function makeDriver(overrides: Partial<Scene> = {}): { scene: Scene; asked: string[][]; commands: HostCommands } {
  const scene: Scene = {
    version: "590.48.01",
    known: HEALTH_FIELDS_ASKED,
    apps: "",
    words: null,
    error: null,
    spoil: (table) => table,
    ...overrides,
  };
  const asked: string[][] = [];
  const answerTo = (argument: string): string => {
    if (argument === "--help-query-gpu") return scene.known.map((field) => `"${field}"\nWhat it is.\n`).join("\n");
    if (argument.startsWith("--query-compute-apps="))
      return `gpu_uuid, pid, process_name, used_gpu_memory [MiB]\n${scene.apps}`;
    const fields = argument.slice("--query-gpu=".length).split(",");
    const gpu = makeGpu({ driver_version: scene.version });
    const row = fields.map((field) => gpu[field] ?? "[N/A]").map((value) => (value === "81559" ? "81559 MiB" : value));
    return scene.spoil(
      `${fields.map((field) => (field === "memory.total" ? `${field} [MiB]` : field)).join(", ")}\n${row.join(", ")}\n`,
    );
  };
  const run: HostCommands["run"] = async (argv) => {
    asked.push([...argv]);
    if (scene.error !== null) throw scene.error;
    const exitCode = scene.words === null ? 0 : 15;
    return { exitCode, stdout: scene.words ?? answerTo(argv[1] ?? ""), stderr: "", durationMs: 1 };
  };
  return { scene, asked, commands: { run } };
}

const signal = new AbortController().signal;

test("a sound host reads as sound, and which fields the driver knows is asked once", async () => {
  const { asked, commands } = makeDriver();
  const reader = makeHealthReader(commands);
  expect(judgeHealth(makeEvidence({ driver: await reader.read(signal) }))).toMatchObject({
    state: "healthy",
    notRead: [],
  });
  await reader.read(signal);
  expect(asked.filter(([, argument]) => argument === "--help-query-gpu")).toHaveLength(1);
  expect(asked.flat().some((argument) => /[;|&$]/.test(argument))).toBe(false);
});

test("after another driver was loaded its fields are asked again", async () => {
  const { scene, asked, commands } = makeDriver({
    known: HEALTH_FIELDS_ASKED.filter((name) => !name.startsWith("fabric")),
  });
  const reader = makeHealthReader(commands);
  expect(await reader.read(signal)).toMatchObject({
    unknownFields: ["fabric.state", "fabric.status", "fabric.health.summary"],
  });
  Object.assign(scene, { version: "600.1", known: HEALTH_FIELDS_ASKED });
  expect(await reader.read(signal)).toMatchObject({ unknownFields: [] });
  expect(asked.filter(([, argument]) => argument === "--help-query-gpu")).toHaveLength(2);
});

test("programs are read with their names, also with commas in them", async () => {
  const { commands } = makeDriver({
    apps: `${UUID}, 77, /opt/a, b/python, 12 MiB\n${UUID}, [N/A], [Not Found], [N/A]\n`,
  });
  expect(await makeHealthReader(commands).read(signal)).toMatchObject({
    processes: [
      { gpuUuid: UUID, pid: 77, name: "/opt/a, b/python" },
      { gpuUuid: UUID, pid: 0, name: "[Not Found]" },
    ],
  });
});

test.each([
  ["a driver that hangs", new AppError("command_timeout", { detail: "killed" }), "nvidia_smi_wedged"],
  ["a host without the driver", new AppError("driver_unavailable", { detail: "missing" }), "driver_not_installed"],
])("%s is a reading, not an accident", async (_what, error, code) => {
  const { commands } = makeDriver({ error });
  expect(await makeHealthReader(commands).read(signal)).toMatchObject({
    state: "failed",
    failure: { code, failureClass: "host" },
  });
});

test("a lost GPU is read from the words that come in the table's place, with its address", async () => {
  const { commands } = makeDriver({
    words: "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.",
  });
  expect(await makeHealthReader(commands).read(signal)).toMatchObject({
    state: "failed",
    failure: { code: "gpu_lost", address: "0000:02:00.0" },
  });
});

test("no cut of the table shows a sound GPU", async () => {
  const { scene, commands } = makeDriver();
  let cuts = 0;
  for (let length = 0; length < 1200; length += 1) {
    scene.spoil = (table) => table.slice(0, Math.min(length, table.length - 1));
    const driver = await makeHealthReader(commands).read(signal);
    expect(judgeHealth(makeEvidence({ driver })).state, `cut at ${length}`).toBe("unhealthy");
    cuts += 1;
  }
  expect(cuts).toBe(1200);
});

test("a cancelled reading rejects with its reason", async () => {
  const { commands } = makeDriver({ error: new Error("cancelled") });
  await expect(makeHealthReader(commands).read(signal)).rejects.toThrow("cancelled");
});
