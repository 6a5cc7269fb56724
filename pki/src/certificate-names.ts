import { uuidOf } from "@hostler/shared/ids.ts";

/** The SPIFFE id of a node: the only subject alternative name of its certificate. */
export function spiffeIdOf(trustDomain: string, nodeId: string): string {
  return `spiffe://${trustDomain}/node/${uuidOf(nodeId)}`;
}

/** The node id in the text that `X509Certificate.subjectAltName` gives; null when it is anything but exactly one such name. */
export function nodeIdOfAltName(subjectAltName: string | undefined, trustDomain: string): string | null {
  const prefix = `URI:spiffe://${trustDomain}/node/`;
  if (subjectAltName === undefined || !subjectAltName.startsWith(prefix)) return null;
  const uuid = subjectAltName.slice(prefix.length);
  return /^[0-9a-f-]{36}$/.test(uuid) ? `node_${uuid}` : null;
}

/** The DNS name in every server certificate. Agents ask for it whatever address they dial. */
export function serverNameOf(trustDomain: string): string {
  return `control-plane.${trustDomain}`;
}
