import { execFile, spawn } from "node:child_process";
import { copyFile, mkdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { systemClock } from "@hostler/shared/clock.ts";
import { waitFor } from "../../support/wait-for.ts";

const run = promisify(execFile);
const READY = /HOSTLER-READY \S+/;

/** A machine of a slice as its QEMU was started, with a seed that is kept after the slice is gone. */
export interface BareMachine {
  readonly argv: readonly string[];
  readonly image: string;
  readonly folder: string;
}

/** Takes the command line of the slice's QEMU, which must run, for machines of our own without an agent. */
export async function copyMachine(
  slice: { readonly allocationId: string; readonly agentStateDir: string },
  options: { readonly image: string; readonly folder: string },
): Promise<BareMachine> {
  const folder = join(options.folder, "bare");
  await mkdir(folder);
  const argv = await commandLineOf(slice);
  const seed = argv.map(fileOf).find((path) => path?.endsWith("seed.iso") === true);
  if (seed === undefined) throw new Error(`no seed in ${argv.join(" ")}`);
  await copyFile(seed ?? "", join(folder, "seed.iso"));
  return {
    argv: argv.filter((word) => word !== "-S").map((word) => placed(word, folder)),
    image: options.image,
    folder,
  };
}

/** From the start of QEMU to the line that the guest writes when it is up, ms. The disk is made before. */
export async function bootBare({ argv, image, folder }: BareMachine): Promise<number> {
  const disk = join(folder, "root.qcow2");
  const log = join(folder, "serial.log");
  await rm(disk, { force: true });
  await rm(log, { force: true });
  await run("qemu-img", ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, disk, "2G"]);
  const [program = "", ...args] = argv;
  const startedMs = systemClock.monotonicMs();
  const child = spawn(program, args, { stdio: "ignore" });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  try {
    const isReady = async (): Promise<boolean> => READY.test(await readFile(log, "latin1").catch(() => ""));
    await waitFor("the bare machine", isReady, { timeoutMs: 120_000 });
    return systemClock.monotonicMs() - startedMs;
  } finally {
    child.kill("SIGKILL");
    await ended;
  }
}

async function commandLineOf(slice: {
  readonly allocationId: string;
  readonly agentStateDir: string;
}): Promise<string[]> {
  const { stdout } = await run("pgrep", ["-f", `guest=${slice.allocationId}`]);
  const [pid = ""] = stdout.trim().split("\n");
  return (await readFile(`/proc/${pid}/cmdline`, "utf8")).split("\0").slice(0, -1);
}

/** The file of a -blockdev. */
function fileOf(word: string): string | undefined {
  return /"filename":"([^"]+)"/.exec(word)?.[1];
}

/** The same word with our own files, sockets and network. */
function placed(word: string, folder: string): string {
  if (word.startsWith("tap,")) return "user,id=net0,restrict=on";
  const path = fileOf(word);
  if (path !== undefined)
    return word.replace(path, join(folder, path.endsWith("seed.iso") ? "seed.iso" : "root.qcow2"));
  if (word.startsWith("file,")) return word.replace(/path=[^,]+/, `path=${join(folder, "serial.log")}`);
  return word.replace(/(path=|unix:)\/[^,]*\/([^,/]+)/, `$1${join(folder, "$2")}`);
}
