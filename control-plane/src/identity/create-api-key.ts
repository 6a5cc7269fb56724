import type { ApiKeyCreated } from "@hostler/shared/api/identity.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { newId } from "@hostler/shared/ids.ts";
import { insertAuditRow } from "../audit/store.ts";
import type { Tx } from "../db/sql.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Deps } from "../deps.ts";
import { formatApiKey, hashApiKeySecret, makeApiKeyText } from "./api-key-text.ts";
import { hasAnyKey, insertKey, lockFirstStart, readProjects, type Binding } from "./store.ts";

interface KeyRequest {
  readonly actor: string;
  readonly requestId: string | null;
  readonly name: string;
  readonly bindings: readonly Binding[];
}

/** Makes a key with its own principal. The secret is in the answer and nowhere else. */
export async function createApiKey(deps: Pick<Deps, "sql" | "clock">, request: KeyRequest): Promise<ApiKeyCreated> {
  refuseOddBindings(request.bindings);
  const wanted = [...new Set(request.bindings.flatMap((binding) => binding.projectId ?? []))];
  const known = new Set((await readProjects(deps.sql, wanted)).map((project) => project.id));
  const missing = wanted.find((id) => !known.has(id));
  if (missing !== undefined)
    throw new AppError("validation_failed", {
      errors: [{ pointer: "/bindings", message: `There is no project ${missing}.` }],
    });
  return await inTransaction(deps.sql, async (tx) => await makeKey(tx, deps, request));
}

/** The key of the first operator, made once in the life of a database; null when there are keys already. */
export async function ensureFirstOperator(deps: Pick<Deps, "sql" | "clock">): Promise<string | null> {
  return await inTransaction(deps.sql, async (tx) => {
    await lockFirstStart(tx);
    if (await hasAnyKey(tx)) return null;
    const request = {
      actor: "system:first-start",
      requestId: null,
      name: "first-operator",
      bindings: [{ role: "operator", projectId: null }],
    } as const;
    return (await makeKey(tx, deps, request)).secret;
  });
}

async function makeKey(tx: Tx, deps: Pick<Deps, "clock">, request: KeyRequest): Promise<ApiKeyCreated> {
  const text = makeApiKeyText();
  const id = newId("apiKey", deps.clock);
  const bindings = request.bindings.map((binding) => ({ ...binding, id: newId("roleBinding", deps.clock) }));
  await insertKey(tx, {
    id,
    principalId: newId("principal", deps.clock),
    name: request.name,
    prefix: text.prefix,
    secretHash: hashApiKeySecret(text.secret),
    bindings,
  });
  await insertAuditRow(tx, {
    actor: request.actor,
    action: "api_key.created",
    targetId: id,
    targetVersion: null,
    outcome: "succeeded",
    requestId: request.requestId,
    detail: { name: request.name, bindings: request.bindings },
  });
  return {
    id,
    name: request.name,
    prefix: text.prefix,
    bindings: request.bindings.map((binding) => ({ ...binding })),
    createdAt: deps.clock.now().toISOString(),
    revokedAt: null,
    lastUsedAt: null,
    secret: formatApiKey(text),
  };
}

function refuseOddBindings(bindings: readonly Binding[]): void {
  const errors = bindings.flatMap((binding, index) => {
    if (binding.role === "operator" && binding.projectId !== null)
      return [{ pointer: `/bindings/${index}/projectId`, message: "The role operator is on the platform: say null." }];
    if (binding.role === "member" && binding.projectId === null)
      return [{ pointer: `/bindings/${index}/projectId`, message: "The role member is on a project: say which." }];
    return [];
  });
  if (errors.length > 0) throw new AppError("validation_failed", { errors });
}
