import * as z from "zod";

/**
 * Whom to trust, as one signed document with a number. Every change of the certificate authorities makes the next one, signed
 * by a root of the one before, so that a host that slept through any number of them can walk from what it knows to now.
 */
export const AUTHORITY_PHASES = ["prepared", "active", "outgoing"] as const;
/** `prepared`: trusted, signs nothing yet. `active`: signs, exactly one. `outgoing`: still trusted, signs nothing more. */

export const authoritySchema = z.looseObject({
  /** Counts up with every rotation; names the folder of its keys. */
  generation: z.int().min(1),
  phase: z.enum(AUTHORITY_PHASES),
  /** PEM. */
  root: z.string().max(8192),
  nodeAuthority: z.string().max(8192),
  serverAuthority: z.string().max(8192),
  /** Public key of this generation's task signatures. */
  taskKey: z.looseObject({ kid: z.string(), kty: z.string(), crv: z.string(), x: z.string() }),
});
export type Authority = z.infer<typeof authoritySchema>;

/** The payload of a trust bundle JWS (typ `hostler-trust+jws`, ES256; `kid` is the pin of the signing root). */
export const trustBundleSchema = z.looseObject({
  version: z.int().min(1),
  trustDomain: z.string(),
  /** RFC 3339. */
  issuedAt: z.string(),
  /** Retired ones are not in it any more. */
  authorities: z.array(authoritySchema).min(1).max(8),
});
export type TrustBundle = z.infer<typeof trustBundleSchema>;

/** As many links as anybody walks at once; rotations are rare. */
export const TRUST_CHAIN_MAX = 1000;
export const trustAnswerSchema = z.looseObject({ bundles: z.array(z.string().max(64 * 1024)).max(TRUST_CHAIN_MAX) });
