import { runNamedSuite } from "../support/suite.ts";

/** Faults on real processes. */
await runNamedSuite("chaos", {
  revoke: async () => (await import("./revoke/revoke.ts")).revokeSuite,
  rotate: async () => (await import("./rotate/rotate.ts")).rotateSuite,
});
