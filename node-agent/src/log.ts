import { destination, pino, stdTimeFunctions, type Logger } from "pino";

/** What the agent's rooms need of a log: one event, one line, a constant message with its variables as fields. */
export type Log = Pick<Logger, "debug" | "info" | "warn" | "error">;

export type LogLevel = "debug" | "info" | "warn" | "error" | "silent";
export const LOG_LEVELS: readonly LogLevel[] = ["debug", "info", "warn", "error", "silent"];

/** JSON lines on stderr; stdout belongs to what a command answers. */
export function makeLog(level: LogLevel): Logger {
  return pino(
    {
      level,
      base: { pid: process.pid },
      timestamp: stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      // Tokens, keys and what tenants wrote never reach a log line, wherever an object carries them.
      redact: [
        "token",
        "secret",
        "ticket",
        "privateKey",
        "userData",
        "jws",
        "*.token",
        "*.secret",
        "*.ticket",
        "*.privateKey",
        "*.userData",
        "*.jws",
      ],
    },
    destination(2),
  );
}
