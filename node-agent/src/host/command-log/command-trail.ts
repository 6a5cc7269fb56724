import { type CommandRecord, EVENT_COMMANDS_MAX } from "@hostler/shared/command-records.ts";
import type { CommandTrail, LoggedCommand } from "../../ports/command-log.ts";
import { recordOf } from "./command-record.ts";
import { inCommandScope } from "./command-scope.ts";

/** Characters of records that one run of a task tells: several results go in one request, and a request has a limit. */
const TOLD_CHARS_MAX = 48 * 1024;

/** `write` is given each record once. */
export function makeCommandTrail(
  run: { readonly taskId: string; readonly fence: string },
  write: (command: LoggedCommand) => void,
): CommandTrail {
  const last = new Map<string, CommandRecord[]>();
  let toldChars = 0;
  return {
    during: async (attempt, act) => {
      const records: CommandRecord[] = [];
      last.set(`${attempt.direction} ${attempt.phase}`, records);
      return await inCommandScope((command) => {
        const record = recordOf(command);
        if (records.push(record) > EVENT_COMMANDS_MAX) records.shift();
        const { phase, direction, attempt: number } = attempt;
        write({ ...run, phase, direction, attempt: number, ...record });
      }, act);
    },
    tellLast: (phase, direction) => {
      const told: CommandRecord[] = [];
      for (const record of (last.get(`${direction} ${phase}`) ?? []).toReversed()) {
        toldChars += JSON.stringify(record).length;
        if (toldChars > TOLD_CHARS_MAX) break;
        told.unshift(record);
      }
      return told;
    },
  };
}
