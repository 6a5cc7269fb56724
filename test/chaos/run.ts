import { runNamedSuite } from "../support/suite.ts";

/** Faults on real processes. */
await runNamedSuite("chaos", { forge: async () => (await import("./forge/suite.ts")).forgeSuite });
