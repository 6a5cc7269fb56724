import type { LookupAddress } from "node:dns";
import type { Clock } from "@hostler/shared/clock.ts";
import type { FindProgram } from "../host/find-program.ts";

/** What the checks need of the world. Sockets and files are real; what tests cannot bring about for real is a port. */
export interface DoctorDeps {
  readonly clock: Clock;
  /** As connections resolve names: the hosts file too. Rejects with the resolver's code. */
  readonly resolve: (host: string) => Promise<readonly LookupAddress[]>;
  readonly find: FindProgram;
  readonly devices: { readonly kvm: string; readonly tun: string };
  readonly userId: number;
  readonly builtAt: Date;
  /** For one network step, and for all of them together. */
  readonly limits: { readonly stepMs: number; readonly totalMs: number };
}
