import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { AppError } from "@hostler/shared/errors.ts";
import { LEASE_TTL_MS } from "@hostler/shared/node-protocol.ts";
import * as z from "zod";
import type { ListenAddress } from "./http/listeners.ts";

const addressSchema = z
  .string()
  .regex(/^(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):\d{1,5}$/, "expected host:port, such as 127.0.0.1:8080")
  .transform((text): ListenAddress => {
    const at = text.lastIndexOf(":");
    return { host: text.slice(0, at).replace(/^\[|\]$/g, ""), port: Number(text.slice(at + 1)) };
  })
  .refine((address) => address.port <= 65_535, "expected a port up to 65535; 0 takes a free one");

/** Every variable that the control plane reads; the README's table is checked against this. */
const environmentSchema = z.object({
  HOSTLER_STATE_DIR: z.string().min(1).default(defaultStateDir()),
  DATABASE_URL: z
    .string()
    .regex(/^postgres(?:ql)?:\/\//, "expected postgres://user:password@host/database")
    .optional(),
  HOSTLER_PUBLIC_URL: z.url("expected a URL, such as https://cloud.example.org").optional(),
  HOSTLER_PUBLIC_LISTEN: addressSchema.default({ host: "127.0.0.1", port: 8080 }),
  HOSTLER_ENROL_LISTEN: addressSchema.default({ host: "0.0.0.0", port: 7443 }),
  HOSTLER_NODE_LISTEN: addressSchema.default({ host: "0.0.0.0", port: 7444 }),
  HOSTLER_ADVERTISED_HOST: z.string().min(1).optional(),
  HOSTLER_TRUST_DOMAIN: z
    .string()
    .regex(/^[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?$/, "expected a lower-case DNS name")
    .default("hostler.internal"),
  HOSTLER_CA_PASSPHRASE: z.string().min(8, "expected at least 8 characters").optional(),
  HOSTLER_CA_PASSPHRASE_FILE: z.string().optional(),
  HOSTLER_LEASE_MS: z.coerce.number().int().min(2000).max(600_000).default(LEASE_TTL_MS),
  HOSTLER_LOG_LEVEL: z.enum(["debug", "info", "warn", "error"]).default("info"),
  HOSTLER_METRICS_PUBLIC: z.enum(["true", "false"]).default("false"),
  HOSTLER_WEBHOOK_ALLOW_PRIVATE: z.enum(["true", "false"]).default("false"),
});

export interface Config {
  readonly stateDir: string;
  /** Null starts the embedded PostgreSQL. */
  readonly databaseUrl: string | null;
  /** Null means the public listener's own address. */
  readonly publicUrl: string | null;
  readonly publicListen: ListenAddress;
  readonly enrolListen: ListenAddress;
  readonly nodeListen: ListenAddress;
  /** The name or address that hosts reach us by; null means the one that the request came to. */
  readonly advertisedHost: string | null;
  readonly trustDomain: string;
  readonly caPassphrase: string | null;
  /** How long a task is held without a renewal. */
  readonly leaseTtlMs: number;
  readonly logLevel: string;
  readonly metricsPublic: boolean;
  /** Whether webhooks may go to private and local addresses, and in clear. */
  readonly webhookAllowPrivate: boolean;
}

/** The only reader of the environment. Throws naming each wrong variable and what it expects. */
export function readConfig(environment: NodeJS.ProcessEnv = process.env): Config {
  const parsed = environmentSchema.safeParse(environment);
  if (!parsed.success) {
    const wrong = parsed.error.issues.map((issue) => `${issue.path.join(".")}: ${issue.message}`);
    throw new AppError("malformed_request", { detail: `The environment is not right. ${wrong.join("; ")}.` });
  }
  const values = parsed.data;
  return Object.freeze({
    stateDir: values.HOSTLER_STATE_DIR,
    databaseUrl: values.DATABASE_URL ?? null,
    publicUrl: values.HOSTLER_PUBLIC_URL?.replace(/\/+$/, "") ?? null,
    publicListen: values.HOSTLER_PUBLIC_LISTEN,
    enrolListen: values.HOSTLER_ENROL_LISTEN,
    nodeListen: values.HOSTLER_NODE_LISTEN,
    advertisedHost: values.HOSTLER_ADVERTISED_HOST ?? null,
    trustDomain: values.HOSTLER_TRUST_DOMAIN,
    caPassphrase: values.HOSTLER_CA_PASSPHRASE ?? readPassphraseFile(values.HOSTLER_CA_PASSPHRASE_FILE),
    leaseTtlMs: values.HOSTLER_LEASE_MS,
    logLevel: values.HOSTLER_LOG_LEVEL,
    metricsPublic: values.HOSTLER_METRICS_PUBLIC === "true",
    webhookAllowPrivate: values.HOSTLER_WEBHOOK_ALLOW_PRIVATE === "true",
  });
}

/** What the task signer, a process of its own, needs of the same environment. */
export function readSignerConfig(
  environment: NodeJS.ProcessEnv = process.env,
): Pick<Config, "logLevel"> & { readonly passphrase: string | null } {
  const { caPassphrase, logLevel } = readConfig(environment);
  return { passphrase: caPassphrase, logLevel };
}

function readPassphraseFile(path: string | undefined): string | null {
  if (path === undefined) return null;
  try {
    return readFileSync(path, "utf8").trimEnd();
  } catch (error) {
    throw new AppError("malformed_request", {
      detail: `HOSTLER_CA_PASSPHRASE_FILE: ${path} cannot be read.`,
      cause: error,
    });
  }
}

function defaultStateDir(): string {
  if (process.getuid?.() === 0) return "/var/lib/hostler";
  return join(process.env["XDG_STATE_HOME"] ?? join(homedir(), ".local/state"), "hostler");
}
