import type { ApiKey, Organization, Project, RoleName } from "@hostler/shared/api/identity.ts";
import type { Queryable, Tx } from "../db/sql.ts";

export interface Binding {
  readonly role: RoleName;
  readonly projectId: string | null;
}

export async function findActiveKey(
  db: Queryable,
  prefix: string,
): Promise<
  | {
      readonly keyId: string;
      readonly principalId: string;
      readonly name: string;
      readonly secretHash: Buffer;
      /** The last note of its use is a minute old. */
      readonly isUseDue: boolean;
      readonly bindings: readonly Binding[];
    }
  | undefined
> {
  const [row] = await db<
    { keyId: string; principalId: string; name: string; secretHash: Buffer; isUseDue: boolean; bindings: Binding[] }[]
  >`
    select k.id as "keyId", p.id as "principalId", p.name, k.secret_hash as "secretHash",
      k.last_used_at is null or k.last_used_at < now() - interval '1 minute' as "isUseDue",
      coalesce((
        select jsonb_agg(jsonb_build_object('role', b.role, 'projectId', b.project_id))
        from role_bindings b
        where b.principal_id = p.id
      ), '[]') as bindings
    from api_keys k
    join principals p on p.id = k.principal_id
    where k.prefix = ${prefix} and k.revoked_at is null
  `;
  return row;
}

/** At most once a minute, so that a busy key does not become a hot row. */
export async function noteKeyUse(db: Queryable, keyId: string): Promise<void> {
  await db`
    update api_keys
    set last_used_at = now()
    where id = ${keyId} and (last_used_at is null or last_used_at < now() - interval '1 minute')
  `;
}

export async function hasAnyKey(db: Queryable): Promise<boolean> {
  const rows = await db`select from api_keys limit 1`;
  return rows.length > 0;
}

/** Serialises first starts, so that two replicas print one key between them. */
export async function lockFirstStart(tx: Tx): Promise<void> {
  await tx`lock table api_keys in share row exclusive mode`;
}

export async function insertKey(
  tx: Tx,
  key: {
    readonly id: string;
    readonly principalId: string;
    readonly name: string;
    readonly prefix: string;
    readonly secretHash: Buffer;
    readonly bindings: readonly (Binding & { readonly id: string })[];
  },
): Promise<void> {
  await tx`insert into principals (id, kind, name) values (${key.principalId}, 'api_key', ${key.name})`;
  await tx`insert into api_keys (id, principal_id, prefix, secret_hash) values (${key.id}, ${key.principalId}, ${key.prefix}, ${key.secretHash})`;
  for (const binding of key.bindings) {
    await tx`insert into role_bindings (id, principal_id, role, project_id) values (${binding.id}, ${key.principalId}, ${binding.role}, ${binding.projectId})`;
  }
}

export async function listKeys(
  db: Queryable,
  page: { readonly after: string | null; readonly limit: number },
): Promise<ApiKey[]> {
  const rows = await db<
    (Omit<ApiKey, "createdAt" | "revokedAt" | "lastUsedAt"> & {
      createdAt: Date;
      revokedAt: Date | null;
      lastUsedAt: Date | null;
    })[]
  >`
    select k.id, p.name, k.prefix, k.created_at as "createdAt", k.revoked_at as "revokedAt", k.last_used_at as "lastUsedAt",
      coalesce((
        select jsonb_agg(jsonb_build_object('role', b.role, 'projectId', b.project_id))
        from role_bindings b
        where b.principal_id = p.id
      ), '[]') as bindings
    from api_keys k
    join principals p on p.id = k.principal_id
    where (${page.after}::text is null or k.id > ${page.after})
    order by k.id
    limit ${page.limit}
  `;
  return rows.map((row) => ({
    ...row,
    createdAt: row.createdAt.toISOString(),
    revokedAt: row.revokedAt?.toISOString() ?? null,
    lastUsedAt: row.lastUsedAt?.toISOString() ?? null,
  }));
}

/** True when the key exists; revoking twice is fine. */
export async function revokeKey(db: Queryable, id: string): Promise<boolean> {
  const rows = await db`update api_keys set revoked_at = coalesce(revoked_at, now()) where id = ${id} returning id`;
  return rows.length === 1;
}

export async function insertOrganization(
  db: Queryable,
  organization: { readonly id: string; readonly name: string },
): Promise<Organization> {
  const [row] = await db<{ id: string; name: string; createdAt: Date }[]>`
    insert into organizations (id, name)
    values (${organization.id}, ${organization.name})
    returning id, name, created_at as "createdAt"
  `;
  if (row === undefined) throw new Error("insert returned no row");
  return { ...row, createdAt: row.createdAt.toISOString() };
}

export async function listOrganizations(
  db: Queryable,
  page: { readonly after: string | null; readonly limit: number },
): Promise<Organization[]> {
  const rows = await db<{ id: string; name: string; createdAt: Date }[]>`
    select id, name, created_at as "createdAt"
    from organizations
    where (${page.after}::text is null or id > ${page.after})
    order by id
    limit ${page.limit}
  `;
  return rows.map((row) => ({ ...row, createdAt: row.createdAt.toISOString() }));
}

export async function insertProject(
  db: Queryable,
  project: { readonly id: string; readonly organizationId: string; readonly name: string },
): Promise<Project> {
  const [row] = await db<{ id: string; organizationId: string; name: string; createdAt: Date }[]>`
    insert into projects (id, organization_id, name)
    values (${project.id}, ${project.organizationId}, ${project.name})
    returning id, organization_id as "organizationId", name, created_at as "createdAt"
  `;
  if (row === undefined) throw new Error("insert returned no row");
  return { ...row, createdAt: row.createdAt.toISOString() };
}

export async function listProjects(
  db: Queryable,
  page: { readonly after: string | null; readonly limit: number },
): Promise<Project[]> {
  const rows = await db<{ id: string; organizationId: string; name: string; createdAt: Date }[]>`
    select id, organization_id as "organizationId", name, created_at as "createdAt"
    from projects
    where (${page.after}::text is null or id > ${page.after})
    order by id
    limit ${page.limit}
  `;
  return rows.map((row) => ({ ...row, createdAt: row.createdAt.toISOString() }));
}

export async function readProjects(
  db: Queryable,
  ids: readonly string[],
): Promise<
  { readonly id: string; readonly name: string; readonly organizationId: string; readonly organizationName: string }[]
> {
  return await db<{ id: string; name: string; organizationId: string; organizationName: string }[]>`
    select p.id, p.name, o.id as "organizationId", o.name as "organizationName"
    from projects p
    join organizations o on o.id = p.organization_id
    where p.id in ${db(ids.length === 0 ? [""] : [...ids])}
    order by p.id
  `;
}
