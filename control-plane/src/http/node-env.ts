import type { HttpBindings } from "@hono/node-server";
import type { Logger } from "pino";

/** The node whose certificate was judged good for this very request. Its id comes from nowhere else. */
export interface AuthenticatedNode {
  readonly id: string;
  readonly name: string;
  readonly certificateSerial: string;
  /** RFC 7638 thumbprint of the certificate's key. */
  readonly keyThumbprint: string;
  /** Rises with every certificate of the node. */
  readonly generation: number;
  /** Generation of the CA that signed the certificate. */
  readonly authority: number;
  /** Which start of the agent this is. */
  readonly session: number;
}

/** What every handler of the node listener finds in its context. */
export interface NodeEnv {
  Bindings: HttpBindings;
  Variables: {
    requestId: string;
    log: () => Logger;
    node: AuthenticatedNode;
    /** When the request came, in monotonic time; it may have waited for the database since. */
    arrivedMs: number;
  };
}
