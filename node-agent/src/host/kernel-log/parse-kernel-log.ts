import * as z from "zod";

/** One message of the kernel. A time is null where its form does not carry it. */
export interface KernelMessage {
  readonly text: string;
  /** Microseconds since boot: the only time that does not jump. */
  readonly monotonicUs: number | null;
  /** The wall clock as the tool printed it. */
  readonly wallTime: string | null;
}

/** A longer line is cut, more messages are not kept: the newest are at the end, so the oldest go. */
const TEXT_LENGTH_MAX = 4096;
const MESSAGES_MAX = 100_000;

interface Form {
  readonly pattern: RegExp;
  read(groups: readonly string[]): KernelMessage;
}

const WEEKDAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)";

const FORMS: readonly Form[] = [
  {
    // /dev/kmsg: priority,sequence,microseconds,flags;text
    pattern: /^\d{1,5},\d+,(\d+),[^;]*;(.*)$/,
    read: ([us = "", text = ""]) => ({ text: unescaped(text), monotonicUs: Number(us), wallTime: null }),
  },
  {
    // dmesg, with the level in front: dmesg --raw and pstore.
    pattern: /^(?:<\d{1,3}>)?\[ *(\d{1,12})\.(\d{6})\] ?(.*)$/,
    read: ([seconds = "", us = "", text = ""]) => ({
      text: unescaped(text),
      monotonicUs: Number(seconds) * 1_000_000 + Number(us),
      wallTime: null,
    }),
  },
  {
    // dmesg --time-format iso
    pattern: /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[,.]\d{6}[+-]\d\d:\d\d) (.*)$/,
    read: ([wallTime = "", text = ""]) => ({ text, monotonicUs: null, wallTime: wallTime.replace(",", ".") }),
  },
  {
    // dmesg --ctime
    pattern: new RegExp(String.raw`^\[(${WEEKDAY} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4})\] ?(.*)$`),
    read: ([wallTime = "", text = ""]) => ({ text, monotonicUs: null, wallTime }),
  },
];

/**
 * Reads what /dev/kmsg, dmesg in its four time formats, pstore and `journalctl -k -o json` give. A line that starts with
 * white space continues the message before it, as the driver's words about a lost GPU do.
 */
export function parseKernelLog(output: string): KernelMessage[] {
  const messages: KernelMessage[] = [];
  for (const line of output.split(/\r*\n/)) {
    if (line.trim() === "") continue;
    const last = messages.at(-1);
    if (/^\s/.test(line) && last !== undefined) {
      // After a record of /dev/kmsg come its properties, which say nothing that the message does not.
      if (!/^ [A-Z_]+=/.test(line))
        messages[messages.length - 1] = { ...last, text: cut(`${last.text} ${line.trim()}`) };
      continue;
    }
    messages.push(messageOf(line));
  }
  return messages.slice(-MESSAGES_MAX);
}

function messageOf(line: string): KernelMessage {
  if (line.startsWith("{")) {
    const message = journalMessage(line);
    if (message !== null) return message;
  }
  for (const { pattern, read } of FORMS) {
    const match = pattern.exec(line);
    if (match === null) continue;
    const message = read(match.slice(1));
    return { ...message, text: cut(message.text) };
  }
  return { text: cut(line), monotonicUs: null, wallTime: null };
}

const journalSchema = z.object({
  // A message that is not UTF-8 comes as its bytes.
  MESSAGE: z.union([z.string(), z.array(z.number().int().min(0).max(255))]),
  _SOURCE_MONOTONIC_TIMESTAMP: z
    .string()
    .regex(/^\d{1,15}$/)
    .optional(),
  __MONOTONIC_TIMESTAMP: z
    .string()
    .regex(/^\d{1,15}$/)
    .optional(),
});

function journalMessage(line: string): KernelMessage | null {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return null;
  }
  const entry = journalSchema.safeParse(value);
  if (!entry.success) return null;
  const { MESSAGE: message, _SOURCE_MONOTONIC_TIMESTAMP: sourceUs, __MONOTONIC_TIMESTAMP: journalUs } = entry.data;
  const us = sourceUs ?? journalUs;
  return {
    text: cut(typeof message === "string" ? message : Buffer.from(message).toString("utf8")),
    monotonicUs: us === undefined ? null : Number(us),
    wallTime: null,
  };
}

/** The kernel writes what is not printable as `\x0a`. */
function unescaped(text: string): string {
  return text.replaceAll(/\\x([0-9a-f]{2})/g, (_whole, hex: string) => {
    const code = Number.parseInt(hex, 16);
    return code < 0x20 ? " " : String.fromCodePoint(code);
  });
}

function cut(text: string): string {
  return text.slice(0, TEXT_LENGTH_MAX);
}
