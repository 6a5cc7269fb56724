import { terminalCreatedSchema } from "@hostler/shared/api/terminals.ts";
import { positional, type Command } from "../command.ts";
import { runTerminal } from "../terminal/run-terminal.ts";

export const terminalCommands: readonly Command[] = [
  {
    words: "terminal",
    summary: "Open a shell in a slice; the exit code is the shell's.",
    positionals: ["allocation"],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      const size = { cols: process.stdout.columns ?? 80, rows: process.stdout.rows ?? 24 };
      const created = await client.post(
        `/api/tenant/v1/allocations/${encodeURIComponent(positional(invocation, 0))}/terminals`,
        size,
        terminalCreatedSchema,
      );
      return await runTerminal({
        socketUrl: `${client.url.replace(/^http/, "ws")}${created.socketPath}`,
        ticket: created.ticket,
        stdin: process.stdin,
        stdout: process.stdout,
        stderr: process.stderr,
      });
    },
  },
];
