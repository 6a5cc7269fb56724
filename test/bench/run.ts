import { runNamedSuite } from "../support/suite.ts";

/** Benchmarks; each compares with peers where they can be installed. */
await runNamedSuite("bench", { pki: async () => (await import("./pki.ts")).pkiSuite });
