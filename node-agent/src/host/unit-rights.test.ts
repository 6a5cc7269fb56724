import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { promisify } from "node:util";
import { expect, test } from "vitest";

const run = promisify(execFile);
const UNIT = new URL("../../../deploy/systemd/hostler-agent.service", import.meta.url);

/** Runs a program with the capabilities that the agent's unit leaves it. */
async function runAsUnit(argv: readonly string[]): Promise<string> {
  const names = /^CapabilityBoundingSet=(.+)$/m.exec(await readFile(UNIT, "utf8"))?.[1] ?? "";
  const rights = names.split(" ").map((name) => `+${name.replace("CAP_", "").toLowerCase()}`);
  const { stdout } = await run("setpriv", ["--no-new-privs", `--bounding-set=-all,${rights.join(",")}`, ...argv]);
  return stdout;
}

test("an agent under its unit reads the kernel's log, without which no GPU is healthy", async () => {
  expect(await readFile(UNIT, "utf8")).not.toContain("ProtectKernelLogs");
  await runAsUnit(["dmesg", "--raw"]);
});

test("an agent under its unit sees what other programs of root have open, and can name who holds a GPU", async () => {
  expect(await runAsUnit(["readlink", `/proc/${process.pid}/fd/0`])).not.toBe("");
});
