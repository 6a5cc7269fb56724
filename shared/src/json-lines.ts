import type * as z from "zod";

/** One value a line. A line that cannot be read (cut short by a crash, or not of this schema) is left out, and takes no other along. */
export function readJsonLines<Value>(text: string, schema: z.ZodType<Value>): Value[] {
  return text.split("\n").flatMap((line) => {
    try {
      const parsed = schema.safeParse(JSON.parse(line));
      return parsed.success ? [parsed.data] : [];
    } catch {
      return [];
    }
  });
}
