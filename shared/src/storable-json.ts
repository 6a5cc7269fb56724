/** How JSON spells a zero character or half of a surrogate pair; nothing else can bring one into a decoded text. */
const SUSPECT = /\\u(?:0000|d[89a-f])/i;

/**
 * Parses JSON from outside into what PostgreSQL can keep: neither text nor jsonb takes a zero character, and jsonb no half of a
 * surrogate pair. Both become U+FFFD, in keys too. They are replaced and not refused, because a host whose report is cut in the
 * middle of a character must still be able to end its task. Throws SyntaxError when it is no JSON.
 */
export function parseStorableJson(text: string): unknown {
  return SUSPECT.test(text) ? (JSON.parse(text, storable) as unknown) : (JSON.parse(text) as unknown);
}

function storable(_key: string, value: unknown): unknown {
  if (typeof value === "string") return clean(value);
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]): [string, unknown] => [clean(key), inner]));
}

function clean(text: string): string {
  return text.toWellFormed().replaceAll("\0", "\ufffd");
}
