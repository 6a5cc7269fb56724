import * as z from "zod";
import type { Clock } from "./clock.ts";

/**
 * An id is a prefix that names the kind and a UUIDv7, the same text in the API, the database, logs and host
 * objects. Whoever sees one knows what it is, and ids sort by the time of their making.
 */
export const ID_PREFIXES = {
  organization: "org",
  project: "prj",
  principal: "prn",
  apiKey: "key",
  roleBinding: "rbn",
  node: "node",
  certificate: "crt",
  bootstrapToken: "tok",
  image: "img",
  allocation: "alc",
  operation: "op",
  task: "task",
  terminal: "trm",
  event: "evt",
  incident: "inc",
  allocationGroup: "grp",
  webhook: "whk",
  natsSink: "nts",
  request: "req",
} as const;

export type IdKind = keyof typeof ID_PREFIXES;

const UUID = "[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}";

/** Makes a new id of the given kind; randomness comes from the platform's secure source, unless the clock brings its own. */
export function newId(kind: IdKind, clock: Clock): string {
  const random = new Uint8Array(16);
  if (clock.fillRandom === undefined) crypto.getRandomValues(random);
  else clock.fillRandom(random);
  return `${ID_PREFIXES[kind]}_${uuidV7(clock.now().getTime(), random)}`;
}

/** A zod schema that accepts ids of one kind and nothing else. */
export function idSchema(kind: IdKind): z.ZodString {
  return z
    .string()
    .regex(new RegExp(`^${ID_PREFIXES[kind]}_${UUID}$`), `Expected an id that begins with ${ID_PREFIXES[kind]}_.`);
}

/** The UUID of an id, for places that want a bare UUID (the SPIFFE id of a node, a machine id). */
export function uuidOf(id: string): string {
  return id.slice(id.indexOf("_") + 1);
}

/**
 * A name of at most 13 characters for host objects with tight limits (a network interface has 15): 10 characters
 * of the id's random part and the generation in base 36. Two slices of one host collide with chance 2^-40.
 */
export function shortName(allocationId: string, generation: number): string {
  return `${uuidOf(allocationId).replaceAll("-", "").slice(-10)}g${generation.toString(36)}`;
}

/** Whether a name on a host is one that `shortName` makes. */
export function isShortName(text: string): boolean {
  return /^[0-9a-f]{10}g[1-9a-z][0-9a-z]{0,10}$/.test(text);
}

function uuidV7(unixMs: number, bytes: Uint8Array): string {
  const view = new DataView(bytes.buffer);
  view.setUint16(0, Math.floor(unixMs / 2 ** 32));
  view.setUint32(2, unixMs % 2 ** 32);
  view.setUint8(6, 0x70 | (view.getUint8(6) & 0x0f));
  view.setUint8(8, 0x80 | (view.getUint8(8) & 0x3f));
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
