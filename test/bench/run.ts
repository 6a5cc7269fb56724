import { runNamedSuite } from "../support/suite.ts";

/** Benchmarks; each compares with peers where they can be installed. */
await runNamedSuite("bench", {
  audit: async () => (await import("./audit.ts")).auditSuite,
  waiters: async () => (await import("./waiters/waiters.ts")).waitersSuite,
  heartbeats: async () => (await import("./heartbeats.ts")).heartbeatsSuite,
  pki: async () => (await import("./pki.ts")).pkiSuite,
});
