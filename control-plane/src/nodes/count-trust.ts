import type { PkiStatus } from "@hostler/shared/api/pki.ts";
import type { Queryable } from "../db/sql.ts";
import { readTrust } from "./trust-counts-store.ts";

const NAMED_MAX = 50;

/** How many hosts are ready for what a rotation does next, and which are not. */
export async function countTrust(
  db: Queryable,
  now: { readonly trustVersion: number; readonly authority: number },
): Promise<PkiStatus["nodes"]> {
  const nodes = await readTrust(db);
  const online = nodes.filter((node) => node.isOnline);
  const waitingFor = online.flatMap(({ id, name, trustVersion, authority }) => {
    if (trustVersion < now.trustVersion) return [{ id, name, reason: `has trust bundle ${trustVersion}` }];
    return authority === now.authority ? [] : [{ id, name, reason: `has a certificate of generation ${authority}` }];
  });
  return {
    online: online.length,
    withNewestTrust: online.filter((node) => node.trustVersion >= now.trustVersion).length,
    onActiveAuthority: online.filter((node) => node.authority === now.authority).length,
    offline: nodes.length - online.length,
    waitingFor: waitingFor.slice(0, NAMED_MAX),
  };
}
