import { chmod, mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { findProgram } from "../../support/find-program.ts";

/** What a program of the host does instead of its work. */
export interface ProgramFault {
  readonly how:
    /** It is on the path, and cannot be started: as one whose package was removed. */
    | "missing"
    /** It says `words` on stderr and ends with 1. */
    | "fails"
    /** It does nothing, ever, not even at SIGTERM. */
    | "hangs"
    /** It does nothing and ends with 0. */
    | "lies"
    /** It does nothing, prints random bytes and ends with 0. */
    | "prints rubbish"
    /** It does its work on a disk that has just become full. */
    | "fills the disk";
  /** Only calls whose arguments have this in them. */
  readonly when?: string;
  readonly words?: string;
  /** Only the next call meets it. */
  readonly isOnce?: boolean;
}

/** Programs in front of the host's own, which they run unless they are told otherwise; put first into an agent's PATH. */
export interface FaultyPrograms {
  readonly folder: string;
  plant(program: string, fault: ProgramFault): Promise<void>;
  /** All are well again. */
  heal(): Promise<void>;
  /** Command lines of those that still hang. */
  hanging(): Promise<string[]>;
}

/** `fillPath`: a file on the disk that becomes full. */
export async function installFaultyPrograms(
  folder: string,
  programs: readonly string[],
  fillPath: string,
): Promise<FaultyPrograms> {
  const bin = join(folder, "bin");
  const faults = join(folder, "faults");
  const pathOf = (program: string): string => join(bin, program);
  const faultOf = (program: string): string => join(faults, program);
  const write = async (program: string, text: string): Promise<void> => {
    // Beside it first: a program that is being started cannot be written.
    await writeFile(`${pathOf(program)}.new`, text);
    await chmod(`${pathOf(program)}.new`, 0o755);
    await rename(`${pathOf(program)}.new`, pathOf(program));
  };
  const scripts = new Map<string, string>();
  await mkdir(bin, { recursive: true });
  await mkdir(faults, { recursive: true });
  for (const program of programs) {
    const real = await findProgram(program);
    if (real === null) throw new Error(`this host has no ${program}`);
    scripts.set(program, scriptOf(real, faultOf(program), fillPath));
    await write(program, scripts.get(program) ?? "");
  }
  const broken = new Set<string>();
  return {
    folder: bin,
    plant: async (program, { how, when = "", words = "", isOnce = false }) => {
      if (!scripts.has(program)) throw new Error(`there is nothing in front of ${program}`);
      if (how === "missing") {
        broken.add(program);
        await write(program, "#!/nowhere/interpreter\n");
        return;
      }
      await writeFile(`${faultOf(program)}.new`, `${[how, when, words, isOnce ? "once" : ""].join("\n")}\n`);
      await rename(`${faultOf(program)}.new`, faultOf(program));
    },
    heal: async () => {
      for (const name of await readdir(faults)) await rm(join(faults, name), { force: true });
      for (const program of broken) await write(program, scripts.get(program) ?? "");
      broken.clear();
      await rm(fillPath, { force: true });
    },
    hanging: async () => await commandLinesWith(`${bin}/`),
  };
}

/** Starts the real program in its own place, so that its pid, its input and its output are the real one's. */
function scriptOf(real: string, fault: string, fillPath: string): string {
  return `#!/bin/sh
[ -f '${fault}' ] || exec '${real}' "$@"
{ read -r how; read -r when; read -r words; read -r once; } < '${fault}'
case "$*" in *"$when"*) ;; *) exec '${real}' "$@" ;; esac
[ -z "$once" ] || rm -f '${fault}'
case "$how" in
fails) echo "$words" >&2; exit 1 ;;
hangs) trap '' TERM; while :; do sleep 1; done ;;
lies) exit 0 ;;
"prints rubbish") head -c 2000 /dev/urandom; exit 0 ;;
"fills the disk") dd if=/dev/zero of='${fillPath}' bs=1M 2>/dev/null; exec '${real}' "$@" ;;
esac
`;
}

async function commandLinesWith(text: string): Promise<string[]> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  const lines = await Promise.all(
    pids.map(async (pid) => await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "")),
  );
  return lines.filter((line) => line.includes(text)).map((line) => line.replaceAll("\0", " ").slice(0, 300));
}
