/** How JSON spells a control character or half of a surrogate pair, and the control characters that it lets stand as they are. */
const SUSPECT = /\\u(?:00[01]|007f|00[89]|d[89a-f])|\\[bfr]|[\u007f-\u009f]/i;
const CONTROL = /(?![\n\t])\p{Cc}/gu;

/**
 * Parses JSON from a host into plain text. PostgreSQL keeps no zero character and jsonb no half of a surrogate pair, and whoever
 * reads a host's message in a terminal must not have the host write commands into it. All such characters but tabs and line
 * ends become U+FFFD, in keys too. They are replaced and not refused, because a host whose report is cut in the middle of a
 * character must still be able to end its task. Throws SyntaxError when it is no JSON.
 */
export function parsePlainJson(text: string): unknown {
  return SUSPECT.test(text) ? (JSON.parse(text, plain) as unknown) : (JSON.parse(text) as unknown);
}

function plain(_key: string, value: unknown): unknown {
  if (typeof value === "string") return clean(value);
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]): [string, unknown] => [clean(key), inner]));
}

function clean(text: string): string {
  return text.toWellFormed().replaceAll("\r\n", "\n").replaceAll(CONTROL, "\ufffd");
}
