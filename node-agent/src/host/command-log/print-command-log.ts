import { commandLines } from "@hostler/shared/command-records.ts";
import type { CommandLog } from "../../ports/command-log.ts";

/** What the host has on record for a slice, newest generation unless one is given; null when that is nothing. */
export async function printCommandLog(
  commandLog: Pick<CommandLog, "list" | "read">,
  wish: { readonly allocationId: string; readonly generation: number | null },
): Promise<string | null> {
  const generations = (await commandLog.list())
    .filter(({ allocationId }) => allocationId === wish.allocationId)
    .map(({ generation }) => generation);
  const generation = wish.generation ?? Math.max(...generations);
  if (!generations.includes(generation)) return null;
  let heading = "";
  const lines: string[] = [];
  for (const command of await commandLog.read({ allocationId: wish.allocationId, generation })) {
    const { taskId, phase, direction, attempt, at } = command;
    const next = `${direction === "undo" ? "undo " : ""}${phase}, attempt ${attempt}, ${taskId}`;
    if (next !== heading) lines.push(next);
    heading = next;
    lines.push(...commandLines(command).map((line, index) => `  ${index === 0 ? `${at} ` : ""}${line}`));
  }
  return lines.map((line) => `${line}\n`).join("");
}
