import { createHash } from "node:crypto";
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { systemClock } from "@hostler/shared/clock.ts";
import { newId } from "@hostler/shared/ids.ts";
import type { ImageReference, SliceSpec } from "@hostler/shared/tasks.ts";
import { makeHostCommands } from "../host/host-commands.ts";
import type { HostCommands } from "../ports/host-commands.ts";
import type { ImageSource } from "../ports/image-source.ts";
import type { ProcessSupervisor } from "../ports/process-supervisor.ts";
import type { CreateContext } from "../ports/slice-driver.ts";
import type { QemuPlaces } from "./slices/slice-paths.ts";

const run = promisify(execFile);

export const commands = makeHostCommands({ clock: systemClock });
export const never = new AbortController().signal;
export const isRoot = process.getuid?.() === 0;

export function makeSpec(overrides: Partial<SliceSpec> = {}): SliceSpec {
  return {
    allocationId: newId("allocation", systemClock),
    generation: 1,
    driver: "qemu",
    hostName: "test-guest",
    vcpus: 1,
    memoryMib: 256,
    diskGib: 1,
    image: { name: "test", sha256: "0".repeat(64), sizeBytes: 1, format: "qcow2" },
    gpuUuids: [],
    sshPublicKeys: [],
    userData: null,
    labels: {},
    ...overrides,
  };
}

export function makeContext(overrides: Partial<CreateContext> = {}): CreateContext {
  return { signal: never, fence: "1", facts: {}, report: () => undefined, ...overrides };
}

export interface TestPlaces extends QemuPlaces {
  remove(): Promise<void>;
}

/** A state and a run folder of their own, with short names for the sockets. */
export async function makePlaces(): Promise<TestPlaces> {
  const folder = await mkdtemp(join(tmpdir(), "hq-"));
  return {
    stateDir: join(folder, "state"),
    runDir: join(folder, "run"),
    remove: async () => await rm(folder, { recursive: true, force: true }),
  };
}

/** An image served from memory. */
export function makeImage(bytes: Buffer, overrides: Partial<ImageReference> = {}): ImageReference {
  const sha256 = createHash("sha256").update(bytes).digest("hex");
  return { name: "test", sha256, sizeBytes: bytes.length, format: "qcow2", ...overrides };
}

export function sourceOf(bytes: Buffer): ImageSource {
  return {
    open: async (_image, { offset }) =>
      (async function* () {
        yield bytes.subarray(offset);
      })(),
  };
}

/** A qcow2 image of 16 MiB made by qemu-img with these options, as bytes. */
export async function qcow2Bytes(folder: string, ...args: readonly string[]): Promise<Buffer> {
  const path = join(folder, `${newId("image", systemClock)}.qcow2`);
  await run("qemu-img", ["create", "-q", "-f", "qcow2", ...args, path, "16M"]);
  return await readFile(path);
}

export interface TestNetwork {
  readonly name: string;
  readonly commands: HostCommands;
  /** Starts programs inside the namespace. */
  inside(supervisor: ProcessSupervisor): ProcessSupervisor;
  ip(...args: readonly string[]): Promise<string>;
  remove(): Promise<void>;
}

/** A network namespace of its own: what a test does there touches nothing of the host. */
export async function makeTestNetwork(): Promise<TestNetwork> {
  const name = `hq${newId("image", systemClock).slice(-10)}`;
  await run("ip", ["netns", "add", name]);
  const prefix = ["ip", "netns", "exec", name] as const;
  return {
    name,
    commands: { run: async (argv, options) => await commands.run([...prefix, ...argv], options) },
    inside: (supervisor) => ({
      ...supervisor,
      start: async (process, argv, options) => await supervisor.start(process, [...prefix, ...argv], options),
    }),
    ip: async (...args) => (await run("ip", ["-n", name, ...args])).stdout,
    remove: async () => void (await run("ip", ["netns", "del", name])),
  };
}
