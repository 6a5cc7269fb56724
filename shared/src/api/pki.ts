import * as z from "zod";
import { idSchema } from "../ids.ts";
import { AUTHORITY_PHASES } from "../trust.ts";
import { timestampSchema } from "./common.ts";

export const ROTATION_STEPS = ["prepare", "issue", "retire", "rollback"] as const;
export type RotationStep = (typeof ROTATION_STEPS)[number];

/** One step of a rotation of the certificate authorities. */
export const rotationRequestSchema = z
  .strictObject({
    step: z.enum(ROTATION_STEPS),
    /** Go on although online hosts are not ready for the step; they come back by their last key. */
    force: z.boolean().default(false),
  })
  .meta({ id: "RotationRequest" });

export const pkiStatusSchema = z
  .object({
    /** Number of the newest trust bundle. */
    trustVersion: z.int(),
    authorities: z.array(
      z.object({
        generation: z.int(),
        phase: z.enum(AUTHORITY_PHASES),
        /** What bootstrap tokens carry while it is active. */
        pin: z.string(),
        expiresAt: timestampSchema,
      }),
    ),
    nodes: z.object({
      /** Not revoked, seen within the last minute. */
      online: z.int(),
      /** Of those: hosts that have the newest trust bundle, and hosts with a certificate of the active authority. */
      withNewestTrust: z.int(),
      onActiveAuthority: z.int(),
      /** Hosts that are away: they catch up when they are back. */
      offline: z.int(),
      /** Online hosts that the next step waits for, at most 50. */
      waitingFor: z.array(z.object({ id: idSchema("node"), name: z.string(), reason: z.string() })),
    }),
  })
  .meta({ id: "PkiStatus" });
export type PkiStatus = z.infer<typeof pkiStatusSchema>;
