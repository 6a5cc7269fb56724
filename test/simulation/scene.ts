import type { KeyObject } from "node:crypto";
import type { Principal } from "@hostler/control-plane/identity/permissions.ts";
import type { Sql } from "@hostler/control-plane/db/sql.ts";
import { issueRoot, makeP256Key, pemOf } from "@hostler/pki";
import type { Clock } from "@hostler/shared/clock.ts";
import { newId } from "@hostler/shared/ids.ts";
import { wallTimeOf } from "./clock.ts";

/** The key of all hosts, and its certificate. Whose key it is does not matter here; that there is one to check with does. */
export interface HostKey {
  readonly key: KeyObject;
  readonly chainPem: string;
}

export function makeHostKey(): HostKey {
  const key = makeP256Key();
  const validity = { notBefore: wallTimeOf(0), notAfter: wallTimeOf(365 * 86_400_000) };
  return { key, chainPem: pemOf(issueRoot({ name: "simulated host", key }, validity)) };
}

export const IMAGE = "tiny";

/** A tenant, an image, and hosts that have just enrolled. */
export interface Scene {
  readonly member: Principal;
  readonly projectId: string;
  readonly nodes: readonly { readonly id: string; readonly serial: string; readonly name: string }[];
}

export async function writeScene(
  sql: Sql,
  clock: Clock,
  options: { readonly hosts: number; readonly chainPem: string },
): Promise<Scene> {
  const projectId = newId("project", clock);
  const organizationId = newId("organization", clock);
  const nodes = Array.from({ length: options.hosts }, (_, index) => ({
    id: newId("node", clock),
    serial: `serial-${index}`,
    name: `host-${index + 1}`,
  }));
  await sql`insert into organizations (id, name) values (${organizationId}, 'simulated')`;
  await sql`insert into projects (id, organization_id, name) values (${projectId}, ${organizationId}, 'simulated')`;
  await sql`
    insert into images (id, name, sha256, size_bytes, format)
    values (${newId("image", clock)}, ${IMAGE}, ${"a".repeat(64)}, 4, 'raw')
  `;
  const ids = nodes.map((node) => node.id);
  const serials = nodes.map((node) => node.serial);
  await sql.unsafe("begin");
  await sql`
    insert into nodes (id, name, state, protocol_version, agent_version)
    select id, name, 'enrolled', 2, 'simulated'
    from unnest(${ids}::text[], ${nodes.map((node) => node.name)}::text[]) as made (id, name)
  `;
  await sql`
    insert into events (id, aggregate_id, aggregate_version, topic, body)
    select 'evt_' || substr(id, 6), id, 1, 'node.enrolled', '{}' from unnest(${ids}::text[]) as made (id)
  `;
  await sql`
    insert into audit_log (actor, action, target_id, target_version, outcome)
    select 'system:simulation', 'node.enrolled', id, 1, 'succeeded' from unnest(${ids}::text[]) as made (id)
  `;
  await sql`
    insert into node_certificates (serial, node_id, generation, key_thumbprint, chain_pem, not_before, not_after, state, authority)
    select serial, id, 1, serial, ${options.chainPem}, now(), now() + interval '1 year', 'active', 1
    from unnest(${serials}::text[], ${ids}::text[]) as made (serial, id)
  `;
  await sql.unsafe("commit");
  const bindings = [{ role: "member", projectId } as const];
  return { projectId, nodes, member: { id: newId("principal", clock), name: "tenant", bindings } };
}
