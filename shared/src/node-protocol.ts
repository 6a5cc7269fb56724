import * as z from "zod";
import { idSchema } from "./ids.ts";
import { driverNameSchema, fenceSchema, hostAccessSchema, INT32_MAX, phaseEventSchema, sha256Schema } from "./tasks.ts";

/**
 * The whole contract between agent and control plane. It only grows: add an optional field or a kind, raise the
 * version, write a history line. Requests are read strictly, answers tolerantly (an older agent may meet new fields).
 */
export const PROTOCOL_VERSION = 6;
export const PROTOCOL_HISTORY = [
  { version: 1, date: "2026-11-21", change: "First version; never released." },
  { version: 2, date: "2026-11-21", change: "Sessions on every request, trust bundles, recovery." },
  {
    version: 3,
    date: "2026-11-21",
    change:
      "Highest fence, last task and clean ends of agents; failures for want of capacity. The slices of a host: digest in polls, lists, repair and removal tasks.",
  },
  {
    version: 4,
    date: "2026-11-21",
    change: "Results of several tasks in one request, each with the events that were not told before it.",
  },
  { version: 5, date: "2026-11-21", change: "The driver `container` and images of the format `tar`." },
  {
    version: 6,
    date: "2026-11-21",
    change: "Ports and a limit of bandwidth in the spec of a slice. The driver `host`.",
  },
] as const;
/** The first version whose agents know ports and limits of bandwidth. */
export const PROTOCOL_VERSION_PORTS = 6;
/** The oldest agent that this control plane serves. */
export const PROTOCOL_VERSION_MIN = 2;

export const NODE_PATHS = {
  enrol: "/enrol/v1/nodes",
  /** Open to whoever asks: the chain of trust bundles proves itself. */
  trust: "/enrol/v1/trust",
  recover: "/enrol/v1/recoveries",
  renew: "/node/v1/certificate/renew",
  session: "/node/v1/session",
  poll: "/node/v1/poll",
  inventory: "/node/v1/inventory",
  slices: "/node/v1/slices",
  telemetry: "/node/v1/telemetry",
  progress: (taskId: string) => `/node/v1/tasks/${taskId}/progress`,
  results: "/node/v1/results",
  /** Of agents before version 4. */
  result: (taskId: string) => `/node/v1/tasks/${taskId}/result`,
  image: (sha256: string) => `/node/v1/images/${sha256}`,
  terminal: (terminalId: string) => `/node/v1/terminals/${terminalId}/socket`,
} as const;

/** Header of every request of a node but the one that starts a session. */
export const SESSION_HEADER = "x-hostler-session";

/** The longest a poll is held, in ms; the agent gives up a little later. */
export const POLL_WAIT_MS_MAX = 25_000;
/** How long a task is held without a renewal unless the control plane is set otherwise, in ms; the agent renews at a third of it. */
export const LEASE_TTL_MS = 30_000;
/** How far the clocks of host and control plane may differ at enrolment, in ms. */
export const CLOCK_SKEW_MS_MAX = 5 * 60_000;

/** A kind of GPU instance that a card can make, as the card's own driver says. Sizes and starts are units of its memory grid. */
export const migProfileSchema = z.strictObject({
  id: z.int().min(0).max(9999),
  name: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9.+_-]{0,47}$/),
  memoryGib: z.number().min(0),
  multiprocessors: z.int().min(0),
  engines: z.strictObject({
    decoders: z.int().min(0),
    encoders: z.int().min(0),
    jpegs: z.int().min(0),
    opticalFlows: z.int().min(0),
  }),
  /** How many may exist at once, whatever else is there. */
  instancesTotal: z.int().min(0).max(64),
  starts: z.array(z.int().min(0).max(999)).max(64),
  size: z.int().min(1).max(64),
});

export type MigProfileOffer = z.infer<typeof migProfileSchema>;

export const gpuSchema = z.strictObject({
  uuid: z.string().max(96),
  index: z.int().min(0).max(65_535),
  model: z.string().max(128),
  /** Short label used in requests, such as `h100` or `rtx-4090`. */
  kind: z.string().max(64),
  memoryMib: z.int().min(0),
  pciAddress: z.string().max(32),
  migCapable: z.boolean(),
  healthy: z.boolean(),
  /** Why it is not healthy; null when it is. */
  fault: z.string().max(500).nullable(),
  /** The parts that it is handed out in, where its operator gave it to MIG; it is handed out whole without it. */
  mig: z.strictObject({ profiles: z.array(migProfileSchema).max(64) }).optional(),
});
export type Gpu = z.infer<typeof gpuSchema>;

export const hostFactsSchema = z.strictObject({
  hostName: z.string().max(253),
  os: z.string().max(128),
  kernel: z.string().max(128),
  architecture: z.string().max(32),
  cpuModel: z.string().max(128),
  cpus: z.int().min(1).max(65_536),
  memoryMib: z.int().min(1).max(INT32_MAX),
  diskFreeGib: z.int().min(0),
  bootId: z.string().max(64),
});
export type HostFacts = z.infer<typeof hostFactsSchema>;

export const inventorySchema = z.strictObject({
  facts: hostFactsSchema,
  gpus: z.array(gpuSchema).max(64),
  /** True when the GPUs are made up (--simulate-gpus): shown in every answer and screen. */
  gpusSimulated: z.boolean(),
  /** What the host can run: driver name to a sentence, `usable` false with the reason where it cannot. */
  drivers: z
    .array(
      z.strictObject({
        name: driverNameSchema,
        usable: z.boolean(),
        accelerator: z.enum(["kvm", "tcg", "none"]),
        note: z.string().max(500),
        /** Of the driver `host`: the most that its operator gives a tenant. */
        access: hostAccessSchema.optional(),
      }),
    )
    .max(8),
  agentVersion: z.string().max(64),
});
export type Inventory = z.infer<typeof inventorySchema>;

/** What a host calls itself. It is shown on screens and in terminals, so it holds nothing that either would act on. */
export const reportedNameSchema = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$/);

/** The claims of the enrolment proof, a JWS signed by the new key whose public JWK stands in the header (typ `hostler-enrol+jws`). */
export const enrolClaimsSchema = z.strictObject({
  iat: z.int(),
  protocolVersion: z.int(),
  tokenId: z.string().regex(/^[0-9a-z]{1,64}$/),
  tokenSecret: z.string().max(64),
  hostName: reportedNameSchema,
  agentVersion: z.string().regex(/^[\x20-\x7e]{0,64}$/),
});
export type EnrolClaims = z.infer<typeof enrolClaimsSchema>;
/** The claims of a renewal proof, signed by the NEW key (typ `hostler-renew+jws`); the old one proves itself by mTLS. */
export const renewClaimsSchema = z.strictObject({
  iat: z.int(),
  nodeId: idSchema("node"),
  replacesSerial: z.string().max(64),
});
export type RenewClaims = z.infer<typeof renewClaimsSchema>;
/**
 * The claims of a recovery: a host whose certificate has expired, or whose CA was retired, proves its last key. The proof is
 * signed by that key (typ `hostler-recover+jws`); `renewal` is a renewal proof of the new key.
 */
export const recoverClaimsSchema = z.strictObject({
  iat: z.int(),
  protocolVersion: z.int(),
  nodeId: idSchema("node"),
  /** The last certificate, PEM: what we signed is believed even if our own record of it was lost. */
  certificate: z.string().max(4096),
  renewal: z.string().max(4096),
});
export type RecoverClaims = z.infer<typeof recoverClaimsSchema>;

/** A start of an agent: who starts, and the session that it had before. */
export const sessionRequestSchema = z.strictObject({
  protocolVersion: z.int(),
  agentInstance: z.string().max(64),
  /** What the last start on this state folder was given; null at the first. */
  previous: z.string().max(128).nullable(),
  /** The highest task sequence that the agent took: a control plane restored from a backup goes on above it. */
  highWaterMark: z.int().min(0),
  /** The highest fence that it acted under, likewise. */
  highestFence: fenceSchema.optional(),
});
export type SessionRequest = z.infer<typeof sessionRequestSchema>;
export const sessionAnswerSchema = z.looseObject({ session: z.string().max(128) });

export const proofRequestSchema = z.strictObject({ proof: z.string().max(16_384) });

const jwksSchema = z.looseObject({
  keys: z.array(z.looseObject({ kid: z.string(), kty: z.string(), crv: z.string(), x: z.string() })),
});

export const identitySchema = z.looseObject({
  nodeId: idSchema("node"),
  trustDomain: z.string(),
  /** Leaf first, then the node CA. PEM. */
  certificateChain: z.string(),
  /** The root certificates that servers are checked against. PEM. */
  trustBundle: z.string(),
  /** Public keys that tasks are signed with. */
  taskKeys: jwksSchema,
  /** The number of the trust bundle that both are from. */
  trustVersion: z.int().min(1),
  /** Host and port of the node listener as the enrolling host reaches it. */
  nodeListener: z.string(),
  /** When to renew, RFC 3339: half of the life, jittered by the server. */
  renewAt: z.string(),
  expiresAt: z.string(),
});
export type IdentityAnswer = z.infer<typeof identitySchema>;

export const pollRequestSchema = z.strictObject({
  protocolVersion: z.int(),
  /** Changes at every start of the agent. */
  agentInstance: z.string().max(64),
  /** The highest node revision whose tasks the agent has; the answer waits for a higher one. */
  ackedRevision: z.int().min(0),
  waitMs: z.int().min(0).max(POLL_WAIT_MS_MAX),
  /** The number of the trust bundle that the agent has. */
  trustVersion: z.int().min(0),
  /** The highest sequence of a task that ever came: what was granted above it was lost on the way. */
  takenSeq: z.int().min(0).optional(),
  /** Rises with each poll of this start of the agent, so that one that comes late is not taken for news. */
  number: z.int().min(1).optional(),
  /** How many more tasks the agent takes now. */
  credit: z.int().min(0).max(64),
  /** What it works on: renews these leases. */
  running: z
    .array(z.strictObject({ taskId: idSchema("task"), fence: fenceSchema, phase: z.string().max(32).nullable() }))
    .max(256),
  /** The start before this one was ended in order: the tasks that it held did not take it along. */
  endedCleanly: z.boolean().optional(),
  /** Digest of the slices on the host, as in the last look at it; absent before the first one. */
  slicesDigest: sha256Schema.optional(),
});
export type PollRequest = z.infer<typeof pollRequestSchema>;

export const pollAnswerSchema = z.looseObject({
  revision: z.int(),
  serverTime: z.string(),
  leaseTtlMs: z.int(),
  /** The newest trust bundle: an agent with an older one fetches it before it looks at the tasks. */
  trustVersion: z.int(),
  /** Renew within this many ms, at a random moment: the CA of the certificate is going out. Null: in its own time. */
  renewWithinMs: z.int().nullable(),
  tasks: z.array(z.looseObject({ jws: z.string() })),
  /** Of `running`: those whose lease is not the caller's any more, and those to cancel. */
  stale: z.array(z.string()),
  cancel: z.array(z.string()),
  /** The list of slices is wanted: it is not the one that the control plane has, or something waits for a fresh one. */
  wantSlices: z.boolean().optional(),
});
export type PollAnswer = z.infer<typeof pollAnswerSchema>;

/** Slices in one list. A host with more sends so many and says that the list is not whole. */
export const SLICES_MAX = 512;
/**
 * What a slice is on its host, as the host itself shows it. Whatever a task works on now is `building` or `releasing` and
 * says nothing yet; only the others can differ from what is wanted.
 */
export const SLICE_STATES = {
  building: "A task builds or repairs it now.",
  releasing: "A task takes it down now.",
  running: "Its machine runs.",
  stopped: "Its disk is there, and no machine.",
  lost: "What is left of it has no disk: its data are gone.",
  unclear: "Something of it is there, but what cannot be told.",
} as const;
export type SliceState = keyof typeof SLICE_STATES;
const SLICE_STATE_NAMES = Object.keys(SLICE_STATES) as [SliceState, ...SliceState[]];

export const sliceEntrySchema = z.strictObject({
  allocationId: idSchema("allocation"),
  generation: z.int().min(1).max(INT32_MAX),
  driver: driverNameSchema,
  state: z.enum(SLICE_STATE_NAMES),
  /** The highest grant that acted on it. */
  fence: fenceSchema,
  /** The GPUs that the host shows as held by it. */
  gpuUuids: z.array(z.string().max(96)).max(64),
  /** Null where the host's books do not know the slice. */
  vcpus: z.int().min(0).max(INT32_MAX).nullable(),
  memoryMib: z.int().min(0).max(INT32_MAX).nullable(),
  diskGib: z.int().min(0).max(INT32_MAX).nullable(),
});
export type SliceEntry = z.infer<typeof sliceEntrySchema>;
export const slicesReportSchema = z.strictObject({
  digest: sha256Schema,
  /** The highest task sequence that the agent had taken when it began to look: the list knows nothing of later tasks. */
  highWaterMark: z.int().min(0),
  /** False when the host has more slices than fit: then what is absent says nothing. */
  isWhole: z.boolean(),
  slices: z
    .array(sliceEntrySchema)
    .max(SLICES_MAX)
    .refine(
      (slices) => new Set(slices.map((one) => `${one.allocationId}.${one.generation}`)).size === slices.length,
      "A slice is named twice.",
    ),
});
export type SlicesReport = z.infer<typeof slicesReportSchema>;

/** Events in one report, or with one result. */
export const EVENTS_MAX = 200;
const eventsSchema = z.array(phaseEventSchema).max(EVENTS_MAX);
export const progressRequestSchema = z.strictObject({ fence: fenceSchema, events: eventsSchema });
export const progressAnswerSchema = z.looseObject({ leaseTtlMs: z.int(), cancel: z.boolean() });
/** Characters of a result, signed. */
export const RESULT_CHARS_MAX = 256 * 1024;
const resultJwsSchema = z.string().max(RESULT_CHARS_MAX);
export const resultRequestSchema = z.strictObject({ result: resultJwsSchema });
/** Results in one request. */
export const RESULTS_MAX = 16;
export const resultsRequestSchema = z.strictObject({
  results: z
    .array(
      z.strictObject({
        taskId: idSchema("task"),
        result: resultJwsSchema,
        /** What the agent has not told of the task before, oldest first; told again is told once. */
        events: eventsSchema,
      }),
    )
    .min(1)
    .max(RESULTS_MAX),
});
/** What was not taken, and why; all others were. */
export const resultsAnswerSchema = z.looseObject({
  refused: z.array(z.looseObject({ taskId: z.string(), problem: z.unknown() })),
});

export const gpuSampleSchema = z.strictObject({
  uuid: z.string().max(96),
  utilizationPercent: z.number().nullable(),
  memoryUsedMib: z.number().nullable(),
  memoryTotalMib: z.number().nullable(),
  temperatureCelsius: z.number().nullable(),
  powerWatts: z.number().nullable(),
  smClockMhz: z.number().nullable(),
  eccUncorrected: z.number().nullable(),
});
export type GpuSample = z.infer<typeof gpuSampleSchema>;
export const hostSampleSchema = z.strictObject({
  cpuPercent: z.number(),
  memoryUsedMib: z.number(),
  memoryTotalMib: z.number(),
  diskFreeGib: z.number(),
  load1: z.number(),
});
export type HostSample = z.infer<typeof hostSampleSchema>;
export const telemetrySampleSchema = z.strictObject({
  /** RFC 3339; with the node it is the key: sending a sample twice stores it once. */
  at: z.iso.datetime(),
  simulated: z.boolean(),
  host: hostSampleSchema,
  gpus: z.array(gpuSampleSchema).max(64),
});
export type TelemetrySample = z.infer<typeof telemetrySampleSchema>;
export const telemetryRequestSchema = z.strictObject({ samples: z.array(telemetrySampleSchema).min(1).max(360) });
