/** The table that nvidia-smi prints for people. The product asks for CSV; this is for comparison. */
export function parseScreenTable(output: string): {
  readonly driverVersion: string | null;
  readonly gpus: readonly {
    readonly index: number;
    readonly name: string;
    readonly address: string;
    readonly fan: string;
  }[];
} {
  const lines = output.split("\n");
  const gpus = lines.flatMap((line, at) => {
    const first = /^\|\s+(\d+)\s+(\S.*?)\s+(?:On|Off|N\/A|WDDM|TCC|MCDM)\s+\|\s+([0-9A-F:]+\.[0-7])\s/.exec(line);
    const fan = /^\|\s*(\S+)\s/.exec(lines[at + 1] ?? "")?.[1];
    const [, index = "", name = "", address = ""] = first ?? [];
    return first === null || fan === undefined ? [] : [{ index: Number(index), name, address, fan }];
  });
  return {
    driverVersion: /Driver Version: (\S+)|KMD Version: (\S+)/.exec(output)?.slice(1).find(Boolean) ?? null,
    gpus,
  };
}

/** `nvidia-smi topo -m`: who is connected to whom, and how. */
export function parseTopology(output: string): {
  readonly names: readonly string[];
  readonly links: Readonly<Record<string, Readonly<Record<string, string>>>>;
  readonly cpuAffinity: Readonly<Record<string, string>>;
} {
  // The header is underlined where the program thinks that it writes to a terminal.
  // oxlint-disable-next-line no-control-regex
  const [header = "", ...lines] = output.replaceAll(/\u001B\[\d*m/g, "").split("\n");
  const columns = header.split("\t").map((cell) => cell.trim());
  const names = columns.filter((name) => /^(?:GPU|NIC)\d+$/.test(name));
  const rows = lines
    .map((line) => line.split("\t").map((cell) => cell.trim()))
    .filter(([name]) => names.includes(name ?? ""));
  if (rows.length !== names.length) throw new Error(`the matrix has ${rows.length} rows for ${names.length} columns`);
  const cell = (row: readonly string[], column: string): string => row[columns.indexOf(column)] ?? "";
  return {
    names,
    links: Object.fromEntries(
      rows.map((row) => [row[0], Object.fromEntries(names.map((name) => [name, cell(row, name)]))]),
    ),
    cpuAffinity: Object.fromEntries(rows.map((row) => [row[0], cell(row, "CPU Affinity")])),
  };
}

/** The sections of a whole-machine capture by their headings, such as `idle :: query (-q)`. */
export function captureSections(
  output: string,
): ReadonlyMap<string, { readonly command: string; readonly text: string }> {
  const parts = output.split(/^#{80}\n# ((?:capabilities|idle|load) :: [^\n]*)\n((?:# [^\n]*\n)*)#{80}\n/m).slice(1);
  const sections = new Map<string, { command: string; text: string }>();
  for (let at = 0; at + 2 < parts.length; at += 3)
    sections.set((parts[at] ?? "").trim(), {
      command: (parts[at + 1] ?? "").trim(),
      text: `${(parts[at + 2] ?? "").trimEnd()}\n`,
    });
  return sections;
}
