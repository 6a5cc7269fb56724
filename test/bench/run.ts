import { runNamedSuite } from "../support/suite.ts";

/** Benchmarks; each compares with peers where they can be installed. */
await runNamedSuite("bench", {
  audit: async () => (await import("./audit.ts")).auditSuite,
  waiters: async () => (await import("./waiters/waiters.ts")).waitersSuite,
  dispatch: async () => (await import("./dispatch/dispatch.ts")).dispatchSuite,
  "dispatch-profile": async () => (await import("./dispatch/profile.ts")).dispatchProfileSuite,
  "held-xmin": async () => (await import("./held-xmin.ts")).heldXminSuite,
  heartbeats: async () => (await import("./heartbeats/heartbeats.ts")).heartbeatsSuite,
  mig: async () => (await import("./mig.ts")).migSuite,
  provision: async () => (await import("./provision/provision.ts")).provisionSuite,
  pki: async () => (await import("./pki.ts")).pkiSuite,
});
