import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { followOperation, requestRelease, requestSlice, runInTerminal } from "../../deploy/demo/journey.ts";
import { leftoversOf } from "../../deploy/demo/leftovers.ts";
import { GUEST_IMAGE_NAME, importGuestImage } from "../support/guest-image.ts";
import { startTestCloud, type TestCloud } from "../support/cloud.ts";

const run = promisify(execFile);
const NAMESPACE = `hostler-test-${process.pid}`;
/**
 * A link of our own between this test and the host that it plays, with addresses from the range for benchmarks (RFC 2544): others
 * for each process, so that what a killed run left is not in the way.
 */
const LINK = { outer: `hto${process.pid % 100_000}`, inner: `hti${process.pid % 100_000}` };
const SUBNET = `198.19.${(process.pid >> 6) & 0xff}`;
const FIRST = (process.pid & 0x3f) * 4;
const OUTER_ADDRESS = `${SUBNET}.${FIRST + 1}`;
const INNER_ADDRESS = `${SUBNET}.${FIRST + 2}`;
const isRoot = process.getuid?.() === 0;
let cloud: TestCloud;

async function ip(...args: readonly string[]): Promise<void> {
  await run("ip", args);
}

beforeAll(async () => {
  if (!isRoot) return;
  await ip("netns", "add", NAMESPACE);
  await ip("link", "add", LINK.outer, "type", "veth", "peer", "name", LINK.inner, "netns", NAMESPACE);
  await ip("address", "add", `${OUTER_ADDRESS}/30`, "dev", LINK.outer);
  await ip("link", "set", LINK.outer, "up");
  await ip("-n", NAMESPACE, "address", "add", `${INNER_ADDRESS}/30`, "dev", LINK.inner);
  await ip("-n", NAMESPACE, "link", "set", LINK.inner, "up");
  await ip("-n", NAMESPACE, "link", "set", "lo", "up");
  cloud = await startTestCloud({
    agentArgs: ["--simulate-gpus", "h100x2"],
    agentPrefix: ["ip", "netns", "exec", NAMESPACE],
    controlPlaneEnv: {
      HOSTLER_ENROL_LISTEN: `${OUTER_ADDRESS}:0`,
      HOSTLER_NODE_LISTEN: `${OUTER_ADDRESS}:0`,
      HOSTLER_ADVERTISED_HOST: OUTER_ADDRESS,
    },
  });
  await importGuestImage(cloud.operator);
});
afterAll(async () => {
  await cloud?.close();
  if (!isRoot) return;
  await ip("netns", "del", NAMESPACE);
});

async function listeningSockets(): Promise<string[]> {
  const { stdout } = await run("ip", ["netns", "exec", NAMESPACE, "ss", "-lntuH"]);
  return stdout.split("\n").filter((line) => line.trim() !== "");
}

test.runIf(isRoot)(
  "an agent in a network namespace of its own listens on nothing while the whole journey works",
  { timeout: 120_000 },
  async () => {
    const { operator, projectId, node } = cloud;
    const slice = await requestSlice(operator, { projectId, name: "inside", image: GUEST_IMAGE_NAME, gpus: 1 });
    await followOperation(operator, slice.id, { timeoutMs: 90_000 });
    expect(await listeningSockets()).toEqual([]);
    const terminal = await runInTerminal(operator, slice.id, "hostname; exit 4\n");
    expect(terminal.output).toContain("inside");
    expect(terminal.exitCode).toBe(4);
    expect(await listeningSockets()).toEqual([]);
    await requestRelease(operator, slice.id);
    await followOperation(operator, slice.id, { timeoutMs: 60_000 });
    const places = {
      stateDir: cloud.agentOptions.stateDir,
      runDir: join(cloud.folder, "run"),
      prefix: ["ip", "netns", "exec", NAMESPACE],
    };
    expect(await leftoversOf(slice.id, 1, places)).toEqual([]);
    expect(node.gpusSimulated).toBe(true);
  },
);
