import { COMMAND_LIMITS, type CommandRecord, harmless } from "@hostler/shared/command-records.ts";
import type { FinishedCommand } from "../../ports/command-log.ts";

const REDACTED = "[redacted]";
/**
 * Secrets travel by files and standard input, which are not recorded. These are for what a program or a later change may do all the
 * same: a value named like a secret, QEMU's `secret` objects, and a private key in any text.
 */
const SECRET_OPTION = /^--?(?:pass(?:word|phrase|wd)?|secret|token|api-?key|credentials?)$/i;
const SECRET_VALUE =
  /((?:^|[\s,;&?"'{])[\w.-]*(?:pass(?:word|phrase|wd)|secret|token|api[_-]?key|credentials?)["']?\s*[=:]\s*)(?!\[redacted\])("[^"]*"|'[^']*'|[^\s,;&"']+)/gi;
const SECRET_OBJECT = /^(?=secret(?:_keyring)?,)(.*?\bdata=)(?:[^,]|,,)*/;
const BEARER = /\b(Bearer|Basic)\s+[\w.~+/=-]{8,}/gi;
const PRIVATE_KEY = /-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)/g;

/** A record of bounded size in which nothing acts on whoever reads it and no secret stands. Pure. */
export function recordOf(command: FinishedCommand): CommandRecord {
  const { argv, startedAt, durationMs, end, exitCode, signal, stdout, stderr } = command;
  return {
    at: startedAt.toISOString(),
    argv: shownArguments(argv),
    end,
    exitCode,
    signal,
    durationMs: Math.max(0, Math.round(durationMs)),
    stdout: shownOutput(stdout),
    stderr: shownOutput(stderr),
  };
}

function shownArguments(argv: readonly string[]): string[] {
  const shown: string[] = [];
  let chars = 0;
  for (const [index, argument] of argv.entries()) {
    const isSecret = SECRET_OPTION.test(argv[index - 1] ?? "");
    const text = isSecret ? REDACTED : cut(redacted(argument), COMMAND_LIMITS.argument, 0);
    chars += text.length + 1;
    if (chars > COMMAND_LIMITS.argumentList) return [...shown, `… (${argv.length - index} more arguments)`];
    shown.push(text);
  }
  return shown;
}

const shownOutput = (text: string): string => cut(redacted(text), COMMAND_LIMITS.outputHead, COMMAND_LIMITS.outputTail);

/** The first and the last so many characters, made harmless. */
function cut(text: string, head: number, tail: number): string {
  // Only what may be shown is looked through: an output may be long.
  const isShort = text.length <= head + tail;
  const whole = isShort ? harmless(text) : "";
  if (isShort && whole.length <= head + tail) return whole;
  const first = harmless(text.slice(0, head)).slice(0, head);
  const last = tail === 0 ? "" : harmless(text.slice(-tail)).slice(-tail);
  return `${first}… (of ${text.length} characters) …${last}`;
}

function redacted(text: string): string {
  return text
    .replace(PRIVATE_KEY, REDACTED)
    .replace(SECRET_OBJECT, `$1${REDACTED}`)
    .replace(SECRET_VALUE, `$1${REDACTED}`)
    .replace(BEARER, `$1 ${REDACTED}`);
}
