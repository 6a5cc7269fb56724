/** A function of `lspci`, with or without -nn, -nnk and -vvv. The product reads sysfs; this is for comparison. */
export interface LspciFunction {
  readonly address: string;
  readonly className: string;
  readonly words: string;
  /** Vendor and device in hexadecimal; null without -nn. */
  readonly id: string | null;
  readonly driver: string | null;
  readonly canReset: boolean;
  readonly iommuGroup: number | null;
}

const FUNCTION =
  /^(?:IOMMU Group (\d+) )?((?:[0-9a-f]{4}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]) (.+?)(?: \[[0-9a-f]{4}\])?: (.*)$/;

export function parseLspci(output: string): LspciFunction[] {
  const blocks: string[][] = [];
  for (const line of output.split("\n")) {
    if (line === "") continue;
    if (FUNCTION.test(line)) blocks.push([line]);
    else if (/^\s/.test(line) && blocks.length > 0) blocks.at(-1)?.push(line);
    else throw new Error(`lspci has an unknown line: ${line}`);
  }
  return blocks.map(functionOf);
}

export const isGpu = ({ className, words }: LspciFunction): boolean =>
  /^(?:3D|VGA compatible) controller$/.test(className) && words.includes("NVIDIA");

function functionOf([first = "", ...lines]: readonly string[]): LspciFunction {
  const [, group, address = "", className = "", words = ""] = FUNCTION.exec(first) ?? [];
  const rest = lines.join("\n");
  const iommuGroup = group ?? /IOMMU group: (\d+)/.exec(rest)?.[1];
  return {
    address,
    className,
    words,
    id: /\[([0-9a-f]{4}:[0-9a-f]{4})\]/.exec(words)?.[1] ?? null,
    driver: /Kernel driver in use: (\S+)/.exec(rest)?.[1] ?? null,
    canReset: /DevCap:[^\n]*\n[^\n]*FLReset\+/.test(rest),
    iommuGroup: iommuGroup === undefined ? null : Number(iommuGroup),
  };
}

/** The laboratory's own listing of sysfs. */
export function parseResetMethods(output: string): {
  readonly address: string;
  readonly numaNode: number;
  readonly methods: readonly string[];
  readonly driver: string;
}[] {
  return output
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const match = /^(\S+) numa=(-?\d+) class=0x[0-9a-f]{6} reset=(?:yes|no) method=(.*) driver=(\S*)$/.exec(line);
      if (match === null) throw new Error(`unknown line: ${line}`);
      const [, address = "", numaNode = "", methods = "", driver = ""] = match;
      return { address, numaNode: Number(numaNode), methods: methods.split(" ").filter((name) => name !== ""), driver };
    });
}
