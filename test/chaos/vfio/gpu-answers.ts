import { createHash } from "node:crypto";
import { chmod, copyFile, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { makeHealthReader } from "@hostler/node-agent/gpus/health/read-health.ts";
import { makeDriverGpus } from "@hostler/node-agent/gpus/nvidia/driver-gpus.ts";
import { installStandIn } from "@hostler/node-agent/gpus/stand-in/install-stand-in.ts";
import { runStandIn } from "@hostler/node-agent/gpus/stand-in/run-stand-in.ts";
import type { HostCommands } from "@hostler/node-agent/ports/host-commands.ts";

const never = new AbortController().signal;

/**
 * Writes an `nvidia-smi` for the guest into its root: a script with the answers of our stand-in, which would itself take many seconds
 * a call there. What the agent asks is found out by asking with the agent's own code.
 */
export async function writeGpuAnswers(
  root: string,
  workDir: string,
  { address, uuid }: { readonly address: string; readonly uuid: string },
): Promise<void> {
  const folder = join(root, "opt/nvidia-smi");
  await mkdir(join(root, "usr/bin"), { recursive: true });
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, "address"), `${address}\n`);
  const card = { card: "h100", busId: `0000${address}`, uuid, persistence: true } as const;
  for (const [shown, gpus] of [
    ["shown", [card]],
    ["hidden", []],
  ] as const) {
    const answers = join(folder, shown);
    await mkdir(answers, { recursive: true });
    const statePath = await installStandIn(join(workDir, `stand-in-${shown}`), { gpus });
    await askAll(recording(statePath, answers), uuid);
  }
  const program = join(root, "usr/bin/nvidia-smi");
  await copyFile(join(import.meta.dirname, "guest/nvidia-smi.sh"), program);
  await chmod(program, 0o755);
}

/** Whatever the agent asks or changes when it gives a whole card by VFIO. What fails is an answer too. */
async function askAll(commands: HostCommands, uuid: string): Promise<void> {
  const driver = makeDriverGpus(commands);
  const asked = [
    async () => await driver.list(never),
    async () => await driver.sample(never),
    async () => await driver.ask("persistence_mode", never),
    async () => await driver.change(["-i", uuid, "-pm", "0"], never),
    async () => await driver.change(["-i", uuid, "-pm", "1"], never),
    async () => await makeHealthReader(commands).read(never),
    async () => await commands.run(["nvidia-smi", "-L"], { timeoutMs: 1000, signal: never }),
  ];
  for (const ask of asked) await ask().catch(() => "It was answered all the same.");
}

function recording(statePath: string, folder: string): HostCommands {
  const ports = { now: () => new Date(), wait: async () => {} };
  return {
    run: async ([, ...args]) => {
      const { text, exitCode } = await runStandIn(ports, statePath, args);
      const name = nameOf(args.join(" "));
      await writeFile(join(folder, name), text);
      await writeFile(join(folder, `${name}.code`), `${exitCode}\n`);
      return { exitCode, stdout: text, stderr: "", durationMs: 0 };
    },
  };
}

/** As the script makes it: what can be read, and what tells two long ones apart. */
function nameOf(asked: string): string {
  return createHash("md5").update(asked).digest("hex");
}
