import type { HttpBindings } from "@hono/node-server";
import type { Logger } from "pino";
import type { Principal } from "../identity/permissions.ts";
import type { IdempotencyRecords, Once } from "./idempotency.ts";

/** What every handler of the public listener finds in its context (`c.var`). */
export interface PublicEnv {
  Bindings: HttpBindings;
  Variables: {
    requestId: string;
    log: () => Logger;
    /** Who asks; set on routes made with `secured`. */
    principal: Principal;
    /** Null when the request carried no valid key: routes that need one refuse it. */
    caller: Principal | null;
    idempotencyRecords: IdempotencyRecords;
    /** Set on routes made with `securedOnceInTransaction`. */
    once: Once;
  };
}
