import * as z from "zod";
import { commandRecordSchema, EVENT_COMMANDS_MAX } from "./command-records.ts";
import { idSchema } from "./ids.ts";
import { FAILURE_CLASS_NAMES } from "./states.ts";

/**
 * What a control plane may ask of a node, and what the node answers. Both travel as JWS: see `pki`.
 * A fence is a decimal string: it outgrows what a JavaScript number holds exactly.
 */
const FENCE_MAX = String(2n ** 63n - 1n);
/** The largest whole number that a column of 32 bits holds. */
export const INT32_MAX = 2 ** 31 - 1;
export const fenceSchema = z
  .string()
  .regex(/^\d{1,19}$/)
  .refine((text) => text.padStart(FENCE_MAX.length, "0") <= FENCE_MAX, "A fence is at most 2^63 - 1.");

export const sha256Schema = z.string().regex(/^[0-9a-f]{64}$/);
/** A label key or value, a user name, a host name: what may reach a host object. Nothing here can be read as an option or a path. */
export const labelKeySchema = z
  .string()
  .regex(/^[a-z0-9](?:[a-z0-9._/-]{0,61}[a-z0-9])?$/, "Expected lower-case letters, digits and . _ / -, at most 63.");
export const labelValueSchema = z
  .string()
  .max(63)
  .regex(/^[A-Za-z0-9 ._:/@+-]*$/);
export const labelsSchema = z
  .record(labelKeySchema, labelValueSchema)
  .refine((labels) => Object.keys(labels).length <= 32, "At most 32 labels.");
export const hostNameSchema = z
  .string()
  .regex(/^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/, "Expected lower-case letters, digits and dashes, at most 63.");
export const sshPublicKeySchema = z
  .string()
  .max(4096)
  .regex(
    /^(?:ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)|sk-[a-z0-9@.-]+) [A-Za-z0-9+/=]+(?: [^\p{Cc}\p{Cs}\p{Zl}\p{Zp}]*)?$/u,
    "Expected one OpenSSH public key.",
  );

/** Given to the guest as it is. A zero byte or half a character cannot be stored, and no guest reads either. */
export const userDataSchema = z
  .string()
  .max(64 * 1024)
  .refine((text) => text.isWellFormed() && !text.includes("\0"), "Expected text without zero bytes.");

/** What the file of an image is: a disk for virtual machines, or the archive of a root file system (tar, also compressed) for containers. */
export const imageFormatSchema = z.enum(["qcow2", "raw", "tar"]);
export type ImageFormat = z.infer<typeof imageFormatSchema>;

export const imageReferenceSchema = z.strictObject({
  name: z.string(),
  sha256: sha256Schema,
  /** Bytes of the file, so that a download has an end before it has a hash. */
  sizeBytes: z.int().positive(),
  format: imageFormatSchema,
});
export type ImageReference = z.infer<typeof imageReferenceSchema>;

/** `qemu` runs virtual machines, `container` containers, `host` gives the whole host away as it is, `mock` runs nothing. */
export const driverNameSchema = z.enum(["qemu", "container", "host", "mock"]);
export type DriverName = z.infer<typeof driverNameSchema>;

/** What a tenant of a whole host is there: somebody without rights, or root, after whom the host must be installed anew. */
export const hostAccessSchema = z.enum(["user", "root"]);
export type HostAccess = z.infer<typeof hostAccessSchema>;
/** The label that asks for root on a whole host; `user` unless given. */
export const HOST_ACCESS_LABEL = "hostler.dev/host-access";
/** Why nothing of a host that had a tenant as root is handed out again, in receipts and in the states of slots and nodes. */
export const ROOT_WAS_GIVEN = "The tenant had root on this host: reinstall it, then hostler nodes return-slot.";

/** What a slice asks for on a whole host; another value than the known ones asks for no more than any user has. Pure. */
export function hostAccessOf(labels: Readonly<Record<string, string>>): HostAccess {
  return labels[HOST_ACCESS_LABEL] === "root" ? "root" : "user";
}

/** Ports of one slice that its host forwards. */
export const PORTS_MAX = 16;
export const slicePortSchema = z.strictObject({
  protocol: z.enum(["tcp", "udp"]),
  /** Inside the slice; which port of the host leads there is the host's choice. */
  port: z.int().min(1).max(65_535),
});
export type SlicePort = z.infer<typeof slicePortSchema>;
export const slicePortsSchema = z
  .array(slicePortSchema)
  .max(PORTS_MAX)
  .refine(
    (ports) => new Set(ports.map(({ protocol, port }) => `${protocol}/${port}`)).size === ports.length,
    "A port is named twice.",
  );
/** A port of a slice with the port of its host that leads there. */
export const hostedPortSchema = slicePortSchema.extend({
  hostPort: z.int().min(1).max(65_535),
  /** A name or an address of the host; null where the host knows none. Screens show it as it is. */
  hostAddress: z
    .string()
    .regex(/^[0-9a-zA-Z](?:[0-9a-zA-Z.:-]{0,251}[0-9a-zA-Z])?$/)
    .nullable(),
});
export type HostedPort = z.infer<typeof hostedPortSchema>;
/** Mbit/s, in each direction. */
export const bandwidthSchema = z.int().min(1).max(400_000);

export const sliceSpecSchema = z.strictObject({
  allocationId: idSchema("allocation"),
  /** Rises when the same allocation is built anew; part of every host object's name. */
  generation: z.int().min(1),
  driver: driverNameSchema,
  hostName: hostNameSchema,
  /** A whole host may have more than any machine is given. */
  vcpus: z.int().min(1).max(65_536),
  memoryMib: z.int().min(128).max(INT32_MAX),
  diskGib: z.int().min(1).max(65536),
  image: imageReferenceSchema,
  gpuUuids: z.array(z.string().max(96)).max(64),
  sshPublicKeys: z.array(sshPublicKeySchema).max(32),
  /** Given to the guest as it is (cloud-init or a script); never interpreted on the host. */
  userData: userDataSchema.nullable(),
  labels: labelsSchema,
  /** Since version 6, like the next; absent where there are none, so that older agents take the task. */
  ports: slicePortsSchema.optional(),
  /** At most so much, in each direction; absent: as much as the host gives. */
  bandwidthMbitPerSecond: bandwidthSchema.optional(),
});
export type SliceSpec = z.infer<typeof sliceSpecSchema>;

export const sliceReferenceSchema = z.strictObject({
  allocationId: idSchema("allocation"),
  generation: z.int().min(1),
  driver: driverNameSchema,
});

export const sliceRepairSchema = z.strictObject({
  /** What the slice is made of where the host does not know it any more; a host that has its spec goes by its own. */
  spec: sliceSpecSchema,
  /** Whether a disk that is gone may be made anew, empty. Without it such a slice is left as it is. */
  newDisk: z.boolean(),
});

/** A tombstone: the only thing that lets a host remove a slice that nobody released there. */
export const sliceRemovalSchema = sliceReferenceSchema.extend({
  /** Who wants it gone and why, for the host's own log. */
  reason: z.string().max(500),
});

export const terminalSpecSchema = z.strictObject({
  terminalId: idSchema("terminal"),
  slice: sliceReferenceSchema,
  /** Rises with each owner; the agent ignores lower ones. */
  epoch: z.int().min(1),
  /** Single use, redeemed by the agent when it dials the owner. */
  ticket: z.string().max(128),
  cols: z.int().min(2).max(1000),
  rows: z.int().min(1).max(500),
});
export type TerminalSpec = z.infer<typeof terminalSpecSchema>;

/** Params by task kind. A new kind is added here and in PROTOCOL_HISTORY; agents refuse kinds they do not know. */
export const TASK_PARAMS = {
  "slice.vm_provision": sliceSpecSchema,
  "slice.vm_release": sliceReferenceSchema,
  "slice.vm_repair": sliceRepairSchema,
  "slice.remove": sliceRemovalSchema,
  "terminal.open": terminalSpecSchema,
} as const;
export type TaskKind = keyof typeof TASK_PARAMS;
export const TASK_KINDS = Object.keys(TASK_PARAMS) as readonly TaskKind[];
export type TaskParams<Kind extends TaskKind> = z.infer<(typeof TASK_PARAMS)[Kind]>;

/** The claims of a task JWS (typ `hostler-task+jws`, EdDSA). Times in seconds since 1970. */
export const taskClaimsSchema = z.strictObject({
  iss: z.literal("hostler"),
  /** Node id. */
  aud: idSchema("node"),
  jti: idSchema("task"),
  /** A kind that the agent does not know is refused with a signed result, so any name passes here. */
  kind: z.string().max(64),
  iat: z.int(),
  nbf: z.int(),
  exp: z.int(),
  /** RFC 7638 thumbprint of the node key that may act on it. */
  cnf: z.strictObject({ jkt: z.string() }),
  fence: fenceSchema,
  /** Rises with every grant to this node; the agent refuses what is not above its high-water mark. */
  seq: z.int().min(1),
  attempt: z.int().min(1),
  /** SHA-256 of the UTF-8 bytes of `params`, hex. */
  pdig: sha256Schema,
  /** The params as JSON text, hashed and parsed as sent, so that no canonical form is needed. */
  params: z.string().max(256 * 1024),
});
export type TaskClaims = z.infer<typeof taskClaimsSchema>;

export const phaseEventSchema = z.strictObject({
  /** Rises by one within a task attempt; the control plane ignores what it has. */
  seq: z.int().min(1).max(INT32_MAX),
  phase: z.string().max(32),
  direction: z.enum(["apply", "undo"]),
  status: z.enum(["started", "progress", "done", "not_needed", "retrying", "failed"]),
  attempt: z.int().min(1).max(INT32_MAX),
  /** Agent's wall clock, RFC 3339. */
  at: z.iso.datetime(),
  durationMs: z.int().min(0).max(INT32_MAX).nullable(),
  message: z.string().max(2000).nullable(),
  /** The last programs that the attempt ran, where it failed; absent from agents before version 6. */
  commands: z.array(commandRecordSchema).max(EVENT_COMMANDS_MAX).optional(),
});
export type PhaseEvent = z.infer<typeof phaseEventSchema>;

export const taskFailureSchema = z.strictObject({
  code: z.string(),
  class: z.enum(FAILURE_CLASS_NAMES),
  phase: z.string().nullable(),
  message: z.string().max(4000),
  /** What undo could not remove; empty when the host is clean. */
  leftovers: z.array(z.string()).max(100),
});
export type TaskFailure = z.infer<typeof taskFailureSchema>;

/** The claims of a result JWS (typ `hostler-result+jws`, ES256 by the node's key). */
export const resultClaimsSchema = z.strictObject({
  iss: idSchema("node"),
  jti: idSchema("task"),
  /** SHA-256 of the task JWS text, hex: the result answers this grant and no other. */
  tdig: sha256Schema,
  fence: fenceSchema,
  iat: z.int(),
  outcome: z.enum(["succeeded", "failed", "cancelled"]),
  /** Facts that the control plane keeps: addresses, accelerator (`kvm`, `tcg`), receipt rows. */
  facts: z.record(z.string(), z.unknown()),
  failure: taskFailureSchema.nullable(),
});
export type ResultClaims = z.infer<typeof resultClaimsSchema>;
export type TaskOutcome = ResultClaims["outcome"];
