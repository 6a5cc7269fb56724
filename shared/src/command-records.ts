import * as z from "zod";

/**
 * What a program of a host said and did, as it is shown to operators. It comes from a host, so nothing in it may act on the screen or
 * the terminal that shows it: control characters (but line breaks and tabs), characters that turn the direction of text or have no
 * width, and halves of characters.
 */
const HARMFUL =
  // oxlint-disable-next-line no-control-regex -- These are the characters that it is about.
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}\p{Cs}]/gu;

/** The text with each harmful character written out, such as `\x1b`. */
export function harmless(text: string): string {
  return text.replace(HARMFUL, (character) => {
    const code = (character.codePointAt(0) ?? 0).toString(16);
    return code.length <= 2 ? `\\x${code.padStart(2, "0")}` : `\\u{${code}}`;
  });
}

/** Made harmless again where it is read, and not refused: a host that says strange things must still be able to end its task. */
const shown = (charsMax: number): z.ZodString => z.string().max(charsMax).overwrite(harmless);

/** Characters of one argument, of all arguments of a program, and of each of its outputs. */
export const COMMAND_LIMITS = { argument: 512, argumentList: 4096, outputHead: 512, outputTail: 1536 } as const;
/** For the words that say how much was left out. */
const NOTE_CHARS_MAX = 64;
const ARGUMENTS_MAX = 256;
const output = shown(COMMAND_LIMITS.outputHead + COMMAND_LIMITS.outputTail + NOTE_CHARS_MAX);

export const COMMAND_ENDS = {
  exited: "It ended by itself.",
  signalled: "A signal ended it that was not ours.",
  timed_out: "It was killed at its deadline.",
  called_off: "It was killed because its task was not wanted any more.",
  not_started: "It could not be started.",
  left_running: "It is meant to outlive the agent.",
} as const;

export const commandRecordSchema = z.strictObject({
  /** Agent's wall clock, RFC 3339. */
  at: z.iso.datetime(),
  /** The program and its arguments; what is secret is `[redacted]`, what is long is cut. */
  argv: z.array(shown(COMMAND_LIMITS.argument + NOTE_CHARS_MAX)).max(ARGUMENTS_MAX),
  end: z.enum(Object.keys(COMMAND_ENDS) as [keyof typeof COMMAND_ENDS]),
  /** What it ended with; null when it did not end by itself. */
  exitCode: z.int().min(0).max(255).nullable(),
  /** Which signal ended it, such as `SIGSEGV`. */
  signal: shown(16).nullable(),
  durationMs: z
    .int()
    .min(0)
    .max(2 ** 31 - 1),
  /** The beginning and the end of what it said. */
  stdout: output,
  stderr: output,
});
export type CommandRecord = z.infer<typeof commandRecordSchema>;

/** Programs that go with one event. */
export const EVENT_COMMANDS_MAX = 5;

/** The program as a person reads it: what was called, how it ended, and what it said, in lines. */
export function commandLines(record: CommandRecord): string[] {
  const { argv, exitCode, signal, durationMs, stdout, stderr } = record;
  const how = exitCode === null ? (signal ?? record.end.replaceAll("_", " ")) : `exit ${exitCode}`;
  const said = [...saidLines(stdout), ...saidLines(stderr)];
  return [`$ ${argv.map(quoted).join(" ")}`, `  ${how}, ${durationMs} ms`, ...said.map((line) => `  | ${line}`)];
}

function saidLines(text: string): string[] {
  return text.trimEnd() === "" ? [] : text.trimEnd().split("\n");
}

/** So that one argument is seen as one. */
function quoted(argument: string): string {
  return /^[\w@%+=:,./-]+$/.test(argument) ? argument : JSON.stringify(argument);
}
