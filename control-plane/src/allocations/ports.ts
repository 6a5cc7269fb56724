import type { Allocation } from "@hostler/shared/api/allocations.ts";
import { PROTOCOL_VERSION_MIN, PROTOCOL_VERSION_PORTS } from "@hostler/shared/node-protocol.ts";
import { hostedPortSchema, type ResultClaims, type SlicePort, type SliceSpec } from "@hostler/shared/tasks.ts";
import * as z from "zod";

export type PortViews = Allocation["ports"];

const factsSchema = z.looseObject({
  network: z.looseObject({ ports: z.array(z.looseObject(hostedPortSchema.shape)) }),
});

/** What is asked, before a host has chosen. */
export function unhosted(ports: readonly SlicePort[]): PortViews {
  return ports.map(({ protocol, port }) => ({ protocol, port, hostPort: null, hostAddress: null }));
}

/** The ports with what the host says of them; of one that it does not name, or not in a way that can be read, nothing is known. Pure. */
export function hostedBy(ports: readonly SlicePort[], facts: ResultClaims["facts"]): PortViews {
  const told = factsSchema.safeParse(facts).data?.network.ports ?? [];
  return unhosted(ports).map((wanted) => {
    const found = told.find(({ protocol, port }) => protocol === wanted.protocol && port === wanted.port);
    return found === undefined ? wanted : { ...wanted, hostPort: found.hostPort, hostAddress: found.hostAddress };
  });
}

/** What of a slice's network its spec says; nothing where nothing is asked, so that agents before it was known take the task. */
export function networkOf(wish: {
  readonly ports: readonly SlicePort[];
  readonly bandwidthMbitPerSecond: number | null;
}): Pick<SliceSpec, "ports" | "bandwidthMbitPerSecond"> {
  const { ports, bandwidthMbitPerSecond } = wish;
  return {
    ...(ports.length === 0 ? {} : { ports: [...ports] }),
    ...(bandwidthMbitPerSecond === null ? {} : { bandwidthMbitPerSecond }),
  };
}

/** The version that an agent must speak to take such a slice. */
export function protocolVersionFor(spec: Pick<SliceSpec, "ports" | "bandwidthMbitPerSecond">): number {
  const isPlain = spec.ports === undefined && spec.bandwidthMbitPerSecond === undefined;
  return isPlain ? PROTOCOL_VERSION_MIN : PROTOCOL_VERSION_PORTS;
}
