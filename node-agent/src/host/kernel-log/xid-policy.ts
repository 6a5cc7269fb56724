/**
 * What an Xid asks for at once, by NVIDIA's published meanings (docs.nvidia.com/deploy/xid-errors, as of October 2025).
 * `none`: nothing. `app`: the program that met it is at fault or must start again, the GPU is sound. `reset`, `reboot`:
 * the GPU, or the machine. `workflow`: somebody or a procedure must look before the GPU is used again.
 */
export type XidAction = "none" | "app" | "reset" | "reboot" | "workflow";

export interface XidDecision {
  readonly action: XidAction;
  readonly meaning: string;
  /** Whether it keeps the GPU from being handed to anyone. */
  readonly isBlocking: boolean;
}

interface Row {
  readonly action: XidAction;
  readonly numbers: readonly (number | readonly [number, number])[];
  readonly meaning: string;
  /** By the words of the line, where the number alone does not decide. The default follows from the action. */
  isBlocking?(text: string): boolean;
}

const BLOCKS: Readonly<Record<XidAction, boolean>> = {
  none: false,
  app: false,
  reset: true,
  reboot: true,
  workflow: true,
};

const ROWS: readonly Row[] = [
  { action: "reboot", numbers: [79], meaning: "the GPU has fallen off the bus" },
  { action: "reset", numbers: [46, 109], meaning: "the GPU stopped processing or could not switch its work" },
  { action: "reset", numbers: [62, 110], meaning: "a controller inside the GPU halted or reported a security fault" },
  { action: "reset", numbers: [64, 156], meaning: "a memory row or another resource was retired or could not be" },
  { action: "reset", numbers: [95, 140], meaning: "a memory error was not contained" },
  { action: "reset", numbers: [119, 120], meaning: "the GPU's system processor (GSP) does not answer or failed" },
  { action: "reset", numbers: [136, 155], meaning: "an NVLink could not be trained or failed" },
  { action: "reset", numbers: [143, 158], meaning: "the GPU could not be started or timed out for good" },
  { action: "workflow", numbers: [48, 171, 172], meaning: "an uncorrectable memory error" },
  { action: "workflow", numbers: [74], meaning: "an NVLink error" },
  {
    action: "workflow",
    numbers: [[144, 150]],
    meaning: "an error on an NVLink of the fifth generation",
    // The line says which it was; one that says neither counts as fatal.
    isBlocking: (text) => !/\bNonfatal\b/.test(text),
  },
  {
    action: "workflow",
    numbers: [154],
    meaning: "the driver asks for a recovery action",
    isBlocking: (text) => !/to 0x0\b/.test(text),
  },
  {
    action: "workflow",
    numbers: [45],
    meaning: "work was removed from the GPU",
    // Follows every program that is killed; where it follows a fault, that fault has its own line.
    isBlocking: () => false,
  },
  { action: "workflow", numbers: [54], meaning: "the GPU's auxiliary power is not connected" },
  { action: "workflow", numbers: [78], meaning: "a vGPU could not start with this software" },
  { action: "workflow", numbers: [159], meaning: "an error between GPU and processor" },
  { action: "workflow", numbers: [164, 165], meaning: "the power smoothing circuit is at the end of its life" },
  { action: "workflow", numbers: [166, 170], meaning: "an interrupt or traffic that confidential computing forbids" },
  { action: "workflow", numbers: [167], meaning: "a fatal timeout on PCI Express" },
  { action: "workflow", numbers: [168], meaning: "the GPU runs with less memory after errors in its protected region" },
  { action: "workflow", numbers: [169], meaning: "a controller inside the GPU halted" },
  {
    action: "workflow",
    numbers: [
      [1, 7],
      [9, 10],
      12,
      [15, 24],
      [26, 30],
      [33, 36],
      42,
      47,
      [49, 53],
      [55, 59],
      61,
      65,
      73,
      81,
      87,
      [90, 91],
      [111, 118],
      [122, 125],
      138,
      142,
    ],
    meaning: "an Xid that NVIDIA asks to report to its support",
  },
  { action: "app", numbers: [8, 11, 13, 25, 31, 32, 69, 80], meaning: "a program misused the GPU" },
  { action: "app", numbers: [94], meaning: "a memory error that was contained to one program" },
  {
    action: "app",
    numbers: [[39, 41], 60, 68, [70, 72], [75, 77], [82, 86], [88, 89], [96, 105], [126, 135], 139],
    meaning: "a copy, video or decoder engine failed under a program",
  },
  {
    action: "app",
    numbers: [151],
    meaning: "the keys of a confidential machine could not be rotated; it must start again",
  },
  { action: "none", numbers: [63], meaning: "a memory row is marked for remapping" },
  { action: "none", numbers: [92, 93, 157], meaning: "a count of errors or of wear is high" },
  {
    action: "none",
    numbers: [14, [37, 38], [43, 44], [66, 67], [106, 108], 121, 137, 141, [152, 153], [160, 163]],
    meaning: "informational",
  },
];

const ROW_OF = new Map<number, Row>(ROWS.flatMap((row) => row.numbers.flatMap(spread).map((number) => [number, row])));
const UNKNOWN: Row = { action: "workflow", numbers: [], meaning: "an Xid that this agent does not know" };

/** Every number has a decision; one that is not in the table keeps the GPU back until somebody looked. */
export function decideXid(number: number, text: string): XidDecision {
  const row = ROW_OF.get(number) ?? UNKNOWN;
  return { action: row.action, meaning: row.meaning, isBlocking: row.isBlocking?.(text) ?? BLOCKS[row.action] };
}

export function isKnownXid(number: number): boolean {
  return ROW_OF.has(number);
}

function spread(numbers: number | readonly [number, number]): number[] {
  if (typeof numbers === "number") return [numbers];
  const [first, last] = numbers;
  return Array.from({ length: last - first + 1 }, (_unused, index) => first + index);
}
