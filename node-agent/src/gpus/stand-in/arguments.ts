/** What one call asks for, read from its arguments. */
export type Command =
  | { readonly kind: "version" | "list" | "help-query-gpu" | "query-text" | "query-xml" }
  | {
      readonly kind: "query-gpu" | "query-compute-apps";
      readonly fields: readonly string[];
      readonly format: CsvFormat;
    }
  | { readonly kind: "persistence" | "mig-mode"; readonly on: boolean }
  | { readonly kind: "reset" }
  | { readonly kind: "lgip" | "lgipp" | "lgi" }
  | { readonly kind: "lci" | "lcip" | "dgi"; readonly gpuInstances: Ids }
  | { readonly kind: "dci"; readonly gpuInstances: Ids; readonly computeInstances: Ids }
  | { readonly kind: "cgi"; readonly profiles: readonly string[]; readonly withComputeInstance: boolean }
  | { readonly kind: "cci"; readonly profiles: readonly string[]; readonly gpuInstances: Ids };

export type CommandKind = Command["kind"];

const COMMAND_KINDS: Readonly<Record<CommandKind, true>> = {
  version: true,
  list: true,
  "help-query-gpu": true,
  "query-text": true,
  "query-xml": true,
  "query-gpu": true,
  "query-compute-apps": true,
  persistence: true,
  "mig-mode": true,
  reset: true,
  lgip: true,
  lgipp: true,
  lgi: true,
  lci: true,
  lcip: true,
  cgi: true,
  cci: true,
  dci: true,
  dgi: true,
};

export function isCommandKind(text: string): text is CommandKind {
  return Object.hasOwn(COMMAND_KINDS, text);
}

/** Null stands for all of them. */
export type Ids = readonly number[] | null;

export interface CsvFormat {
  readonly header: boolean;
  readonly units: boolean;
}

/** With the GPUs as they were named: index, UUID or bus id; null for all. */
export type Call =
  | { readonly command: Command; readonly gpus: readonly string[] | null }
  | { readonly refusal: string; readonly exitCode: number };

const LONG_NAMES: Readonly<Record<string, string>> = {
  "--id": "-i",
  "--list-gpus": "-L",
  "--query": "-q",
  "--xml-format": "-x",
  "--persistence-mode": "-pm",
  "--multi-instance-gpu": "-mig",
  "--gpu-reset": "-r",
  "--list-gpu-instance-profiles": "-lgip",
  "--list-gpu-instance-possible-placements": "-lgipp",
  "--list-gpu-instances": "-lgi",
  "--list-compute-instance-profiles": "-lcip",
  "--list-compute-instances": "-lci",
  "--create-gpu-instance": "-cgi",
  "--default-compute-instance": "-C",
  "--create-compute-instance": "-cci",
  "--destroy-gpu-instance": "-dgi",
  "--destroy-compute-instance": "-dci",
  "--gpu-instance-id": "-gi",
  "--compute-instance-id": "-ci",
};
/** Options that are followed by a value, or, with "maybe", by one that does not begin with a dash. */
const VALUES: Readonly<Record<string, "always" | "maybe">> = {
  "-i": "always",
  "-gi": "always",
  "-ci": "always",
  "-cgi": "always",
  "-cci": "maybe",
  "-pm": "always",
  "-mig": "always",
  "-r": "maybe",
  "--query-gpu": "always",
  "--query-compute-apps": "always",
  "--format": "always",
};
const FLAGS = new Set(["-L", "-q", "-x", "-C", "-lgip", "-lgipp", "-lgi", "-lci", "-lcip", "-dgi", "-dci"]);
const INVALID = "Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.\n";

export function parseArguments(argv: readonly string[]): Call {
  const isMig = argv[0] === "mig";
  const options = readOptions(isMig ? argv.slice(1) : argv);
  if (typeof options === "string") return { refusal: options, exitCode: 2 };
  const command = isMig ? migCommand(options) : deviceCommand(options);
  if (command === null) return { refusal: INVALID, exitCode: 2 };
  const ids = options.get("-i");
  return { command, gpus: ids === undefined ? null : ids.split(",") };
}

/** Options with their values, or what is wrong with them. */
function readOptions(argv: readonly string[]): Map<string, string> | string {
  const options = new Map<string, string>();
  for (let at = 0; at < argv.length; at += 1) {
    const [spelled = "", ...joined] = (argv[at] ?? "").split("=");
    const name = LONG_NAMES[spelled] ?? spelled;
    const next = argv[at + 1];
    const takes = VALUES[name];
    if (joined.length > 0) options.set(name, joined.join("="));
    else if (takes === undefined || (takes === "maybe" && (next === undefined || next.startsWith("-"))))
      options.set(name, "");
    else if (next === undefined)
      return `Option ${spelled} is missing its value. Please run 'nvidia-smi -h' for help.\n`;
    else {
      options.set(name, next);
      at += 1;
    }
    if (takes === undefined && !FLAGS.has(name) && name !== "--version" && name !== "--help-query-gpu")
      return `Option ${spelled} is not recognized. Please run 'nvidia-smi -h'.\n`;
  }
  return options;
}

function deviceCommand(options: ReadonlyMap<string, string>): Command | null {
  for (const kind of ["query-gpu", "query-compute-apps"] as const) {
    const fields = options.get(`--${kind}`);
    const format = options.get("--format")?.split(",") ?? [];
    if (fields === undefined) continue;
    if (!format.includes("csv")) return null;
    const header = !format.includes("noheader");
    return { kind, fields: fields.split(","), format: { header, units: !format.includes("nounits") } };
  }
  for (const [name, kind] of [
    ["-pm", "persistence"],
    ["-mig", "mig-mode"],
  ] as const) {
    const value = options.get(name);
    if (value === undefined) continue;
    return /^(?:0|1|DISABLED|ENABLED)$/.test(value) ? { kind, on: value === "1" || value === "ENABLED" } : null;
  }
  const reset = options.get("-r");
  if (reset !== undefined) return reset === "" || reset === "bus" ? { kind: "reset" } : null;
  if (options.has("-q")) return { kind: options.has("-x") ? "query-xml" : "query-text" };
  if (options.has("-L")) return { kind: "list" };
  if (options.has("--version")) return { kind: "version" };
  if (options.has("--help-query-gpu")) return { kind: "help-query-gpu" };
  return null;
}

function migCommand(options: ReadonlyMap<string, string>): Command | null {
  const gpuInstances = idsOf(options.get("-gi"));
  const computeInstances = idsOf(options.get("-ci"));
  if (gpuInstances === "wrong" || computeInstances === "wrong") return null;
  const create = options.get("-cgi");
  if (create !== undefined)
    return create === "" ? null : { kind: "cgi", profiles: create.split(","), withComputeInstance: options.has("-C") };
  const createCompute = options.get("-cci");
  if (createCompute !== undefined)
    return { kind: "cci", profiles: createCompute.split(",").filter((profile) => profile !== ""), gpuInstances };
  if (options.has("-dci")) return { kind: "dci", gpuInstances, computeInstances };
  for (const kind of ["lci", "lcip", "dgi"] as const) if (options.has(`-${kind}`)) return { kind, gpuInstances };
  for (const kind of ["lgip", "lgipp", "lgi"] as const) if (options.has(`-${kind}`)) return { kind };
  return null;
}

function idsOf(text: string | undefined): Ids | "wrong" {
  if (text === undefined) return null;
  return /^\d+(?:,\d+)*$/.test(text) ? text.split(",").map(Number) : "wrong";
}
