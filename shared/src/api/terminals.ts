import * as z from "zod";
import { idSchema } from "../ids.ts";
import { timestampSchema } from "./common.ts";

export const terminalCreateSchema = z
  .strictObject({ cols: z.int().min(2).max(1000).default(80), rows: z.int().min(1).max(500).default(24) })
  .meta({ id: "TerminalCreate" });

export const terminalCreatedSchema = z
  .object({
    id: idSchema("terminal"),
    allocationId: idSchema("allocation"),
    /** Path of the WebSocket on the public listener. */
    socketPath: z.string(),
    /** Single use, 30 s; offered as the subprotocol `hostler.ticket.<ticket>` beside `hostler.terminal.v1`. */
    ticket: z.string(),
    expiresAt: timestampSchema,
  })
  .meta({ id: "TerminalCreated" });
export type TerminalCreated = z.infer<typeof terminalCreatedSchema>;
