import type { Deps } from "@hostler/control-plane/deps.ts";
import { isDatabaseAway } from "@hostler/control-plane/db/pool.ts";
import { describeError } from "@hostler/shared/errors.ts";
import type { Actor, Scheduler } from "./scheduler.ts";

const SHOWN = ["taskId", "nodeId", "allocationId", "fence", "attempt", "reason", "outcome"] as const;

/** What a process writes to its log becomes part of the trace. An error of its own making is a finding: nothing here is broken for good. */
export function makeSimulatedLog(
  scheduler: Scheduler,
  actor: Actor,
  onError: (message: string, about: readonly string[]) => void,
): Deps["log"] {
  const line = (fields: unknown, message: unknown): void => {
    const given = (typeof fields === "object" ? fields : null) as Record<string, unknown> | null;
    const shown = SHOWN.flatMap((name) => (given?.[name] === undefined ? [] : [`${name} ${String(given[name])}`]));
    scheduler.trace.add(actor.name, `log: ${String(message)} ${shown.join(" ")}`);
  };
  const log = {
    debug: () => undefined,
    info: line,
    warn: line,
    error: (fields: Record<string, unknown>, message: string) => {
      line(fields, message);
      const error = fields["err"] ?? fields["error"];
      // Without an error it is a call for an operator.
      if (error === undefined || !actor.isAlive || isDatabaseAway(error)) return;
      const about = SHOWN.flatMap((name) => (typeof fields[name] === "string" ? [fields[name]] : []));
      onError(`${actor.name} logged "${message}": ${typeof error === "string" ? error : describeError(error)}`, about);
    },
  };
  return log as unknown as Deps["log"];
}
