import { execFile } from "node:child_process";
import { readdir, readFile } from "node:fs/promises";
import { basename, join, relative } from "node:path";
import { promisify } from "node:util";
import { makeSpec } from "@hostler/node-agent/drivers/testing.ts";
import type { SliceDriver } from "@hostler/node-agent/ports/slice-driver.ts";
import { provisionSlice } from "@hostler/node-agent/tasks/provision-slice.ts";
import type { GrantedTask } from "@hostler/node-agent/tasks/task.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { newId, shortName } from "@hostler/shared/ids.ts";
import { sliceSpecSchema, type SliceSpec, type TaskClaims } from "@hostler/shared/tasks.ts";
import { leftoversOf } from "../../../deploy/demo/leftovers.ts";
import type { HostileHost } from "./test-host.ts";

const run = promisify(execFile);
const never = new AbortController().signal;
/** Stands behind each text, so that also texts of one character are found where they should not be. */
const CANARY = "zq7xcanary";
/** Shorter ones stand in any command by chance. */
const TELLING_CHARS = 5;
const STOP = "the machine is not started: the suite has seen enough";

/** Where a text may stand in a spec; each is taken where the schema lets it pass. */
const PLACES: readonly ((spec: SliceSpec, text: string) => unknown)[] = [
  (spec, text) => ({ ...spec, hostName: text }),
  (spec, text) => ({ ...spec, image: { ...spec.image, name: `${text}${CANARY}` } }),
  (spec, text) => ({ ...spec, sshPublicKeys: [`ssh-ed25519 AAAA ${text}${CANARY}`] }),
  (spec, text) => ({ ...spec, userData: `${text}\n# ${CANARY}\n` }),
  (spec, text) => ({ ...spec, labels: { ...spec.labels, value: text } }),
  (spec, text) => ({ ...spec, labels: { ...spec.labels, ...Object.fromEntries([[text, CANARY]]) } }),
];

export interface Built {
  /** Fields in which the text came as far as the host. */
  readonly carried: number;
  readonly commands: number;
  readonly wrong: readonly string[];
}

export interface Build {
  readonly driver: "qemu" | "container";
  readonly text: string;
  /** What commands may contain anyway: all that a harmless slice of the driver runs. */
  readonly harmless: string;
  /** Also starts the machine: the one command in which a tenant's host name has its place. */
  readonly withMachine: boolean;
}

/** A slice with the text wherever it passes, built by the agent's own phases up to its machine, looked at, and undone. */
export async function buildSlice(host: HostileHost, build: Build): Promise<Built> {
  const { driver, text, harmless, withMachine } = build;
  const { spec, carried } = specWith(makeSpec({ driver, image: host.images[driver] }), text);
  const before = await listing(host.base);
  host.started.commands = [];
  host.started.inputs = [];
  const wrong: string[] = [];
  const real = host.deps.drivers.get(driver);
  if (real === undefined) throw new Error(`no driver ${driver}`);
  const create: SliceDriver["machine"]["create"] = async (wanted, context) => {
    if (withMachine) await real.machine.create(wanted, context);
    wrong.push(...(await seedEscapes(host, spec)), ...(await recordGaps(host, spec)));
    for (const path of await listing(host.base))
      if (!before.has(path) && !isOf(spec, path)) wrong.push(`a file that is not the slice's: ${path}`);
    throw new AppError("task_rejected", { detail: STOP });
  };
  const watched: SliceDriver = { ...real, machine: { ...real.machine, create } };
  const deps = { ...host.deps, drivers: new Map([[driver, watched]]) };
  const { outcome } = await provisionSlice(deps, taskOf(spec), spec);
  if (outcome.failure?.message.includes(STOP) !== true || outcome.failure.leftovers.length > 0)
    wrong.push(`ended otherwise: ${JSON.stringify(outcome.failure).slice(0, 500)}`);
  await (await deps.journals.open(spec))?.remove();
  wrong.push(...commandEscapes(host, { text, harmless, hostName: withMachine ? spec.hostName : null }));
  const after = await listing(host.base);
  for (const path of after) if (!before.has(path)) wrong.push(`left behind: ${path}`);
  wrong.push(...(await leftoversOf(spec.allocationId, spec.generation, host)).map((what) => `left behind: ${what}`));
  return { carried, commands: host.started.commands.length, wrong };
}

/** All that it started, as one text. */
export function commandText({ started }: HostileHost): string {
  return [...started.commands.flatMap(({ argv }) => argv), ...started.inputs].join("\n");
}

function specWith(good: SliceSpec, text: string): { readonly spec: SliceSpec; readonly carried: number } {
  let spec = good;
  let carried = 0;
  for (const put of PLACES) {
    const parsed = sliceSpecSchema.safeParse(put(spec, text));
    if (!parsed.success) continue;
    spec = parsed.data;
    carried += 1;
  }
  return { spec, carried };
}

function taskOf(spec: SliceSpec): GrantedTask {
  const claims = { jti: newId("task", systemClock), fence: "1", pdig: spec.allocationId } as TaskClaims;
  return { claims, cancel: never, stop: never, assertHeld: () => undefined, emit: () => undefined };
}

/** No text of a tenant is in a command or on its standard input, but the host name in its one place; nothing is run by a shell. */
function commandEscapes(
  host: HostileHost,
  { text, harmless, hostName }: { readonly text: string; readonly harmless: string; readonly hostName: string | null },
): string[] {
  const isHostile = (word: string): boolean =>
    word.includes(CANARY) || (text.length >= TELLING_CHARS && !harmless.includes(text) && word.includes(text));
  const words = host.started.commands.flatMap(({ argv }) => argv.filter((word) => word !== `--hostname=${hostName}`));
  return [
    ...words.filter(isHostile).map((word) => `in a command: ${word.slice(0, 200)}`),
    ...host.started.inputs.filter(isHostile).map((input) => `on a standard input: ${input.slice(0, 200)}`),
    ...host.started.commands.filter(isShell).map(({ argv }) => `by a shell: ${argv.join(" ").slice(0, 200)}`),
  ];
}

function isShell({ argv }: { readonly argv: readonly string[] }): boolean {
  return argv.some((word, at) => /^(?:ba|da|z|k)?sh$/.test(basename(word)) && /^-\w*c/.test(argv[at + 1] ?? ""));
}

/** The record of commands tells all that was started, and none of what a tenant gave. */
async function recordGaps(host: HostileHost, spec: SliceSpec): Promise<string[]> {
  const records = await host.commandLog.read(spec);
  const gaps: string[] = [];
  if (records.length !== host.started.commands.length)
    gaps.push(`${records.length} of ${host.started.commands.length} commands are on record`);
  if (JSON.stringify(records).includes(CANARY)) gaps.push("the record of commands has a text of the tenant");
  return gaps;
}

async function seedEscapes(host: HostileHost, spec: SliceSpec): Promise<string[]> {
  const name = shortName(spec.allocationId, spec.generation);
  const read = async (file: string): Promise<string> => {
    if (spec.driver === "container")
      return await readFile(join(host.stateDir, "containers/slices", name, "seed", file), "utf8");
    const iso = join(host.stateDir, "slices", name, "seed.iso");
    return (await run("isoinfo", ["-R", "-i", iso, "-x", `/${file}`], { encoding: "buffer" })).stdout.toString("utf8");
  };
  const escapes: string[] = [];
  if ((await read("user-data")) !== (spec.userData ?? "#cloud-config\n")) escapes.push("the user data is not as given");
  const keys = (await read("authorized_keys")).split("\n").filter((line) => line !== "" && !isPlatformKey(line));
  if (JSON.stringify(keys) !== JSON.stringify(spec.sshPublicKeys)) escapes.push("the keys are not the keys");
  const meta: unknown = JSON.parse(await read("meta-data"));
  const expected = { "instance-id": `${spec.allocationId}-${spec.generation}`, "local-hostname": spec.hostName };
  if (JSON.stringify(meta) !== JSON.stringify(expected)) escapes.push("the meta-data is not as given");
  return escapes;
}

const isPlatformKey = (line: string): boolean => line.endsWith(" hostler-platform");

const isOf = ({ allocationId, generation }: SliceSpec, path: string): boolean =>
  path.includes(shortName(allocationId, generation)) || path.includes(allocationId);

/** The folder of sockets goes when the last slice of a driver does, and comes with the next. */
const COMES_AND_GOES = new Set(["run/c"]);

async function listing(base: string): Promise<ReadonlySet<string>> {
  const entries = await readdir(base, { recursive: true, withFileTypes: true });
  const paths = entries.map((entry) => relative(base, join(entry.parentPath, entry.name)));
  return new Set(paths.filter((path) => !COMES_AND_GOES.has(path)));
}
