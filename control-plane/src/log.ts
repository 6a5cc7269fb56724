import { describeError } from "@hostler/shared/errors.ts";
import pino, { type Logger } from "pino";

/** Never in a log, wherever it stands in a logged object up to three levels down. */
const SECRETS = [
  "authorization",
  "cookie",
  "apiKey",
  "secret",
  "token",
  "ticket",
  "passphrase",
  "password",
  "proof",
  "userData",
  "params",
];

/** JSON lines on stderr. An error is printed as the chain of its causes. */
export function openLog(level: string): Logger {
  return pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      redact: { paths: SECRETS.flatMap((name) => [name, `*.${name}`, `*.*.${name}`]), censor: "[redacted]" },
      serializers: {
        err: (error: unknown) => ({
          chain: describeError(error),
          stack: error instanceof Error ? error.stack : undefined,
        }),
      },
    },
    pino.destination({ fd: 2, sync: true }),
  );
}
