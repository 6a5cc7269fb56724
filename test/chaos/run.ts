import { runNamedSuite } from "../support/suite.ts";

/** Faults on real processes. */
await runNamedSuite("chaos", {
  enrol: async () => (await import("./enrol/enrol.ts")).enrolSuite,
  forge: async () => (await import("./forge/suite.ts")).forgeSuite,
  hostile: async () => (await import("./hostile/hostile.ts")).hostileSuite,
  phases: async () => (await import("./phases/phases.ts")).phasesSuite,
  host: async () => (await import("./host/host.ts")).hostSuite,
  partition: async () => (await import("./partition/partition.ts")).partitionSuite,
  postgres: async () => (await import("./postgres/postgres.ts")).postgresSuite,
  revoke: async () => (await import("./revoke/revoke.ts")).revokeSuite,
  rotate: async () => (await import("./rotate/rotate.ts")).rotateSuite,
  stale: async () => (await import("./stale/stale.ts")).staleSuite,
  vfio: async () => (await import("./vfio/vfio.ts")).vfioSuite,
});
