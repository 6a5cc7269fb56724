import type { Direction } from "../../support/partitions.ts";
import type { PartitionCase, Kind } from "./case.ts";
import type { PartitionedAgent, PartitionedCloud } from "./cloud.ts";

const KINDS: readonly Kind[] = ["hold", "replace"];
const WAYS: readonly { readonly name: string; readonly direction: Direction }[] = [
  { name: "symmetric", direction: "both" },
  { name: "inbound only", direction: "in" },
  { name: "outbound only", direction: "out" },
];

/** Cases of a wave run side by side, each with agents of its own; waves follow each other. */
export type Wave = readonly PartitionCase[];

/** All that can be cut, in each way, for shorter and for longer than a lease. */
export function wavesOf(cloud: PartitionedCloud): readonly Wave[] {
  return [
    agentFromAll(cloud),
    agentFromOne(cloud),
    ...replicaFromDatabase(cloud).map((one) => [one]),
    ...halfOpenDatabase(cloud).map((one) => [one]),
    ...allFromDatabase(cloud).map((one) => [one]),
  ];
}

function direct(cloud: PartitionedCloud): PartitionedAgent[] {
  return cloud.agents.filter((agent) => agent.proxies === null);
}

function viaProxy(cloud: PartitionedCloud): PartitionedAgent[] {
  return cloud.agents.filter((agent) => agent.proxies !== null);
}

/** Deals agents out to the cases of a wave, in order; a cloud with fewer has fewer cases. */
function deal(
  agents: readonly PartitionedAgent[],
  makers: readonly ((agent: PartitionedAgent) => PartitionCase)[],
): Wave {
  return agents.flatMap((agent, index) => makers[index]?.(agent) ?? []);
}

export function agentFromAll(cloud: PartitionedCloud): Wave {
  const addresses = cloud.replicas.map((replica) => replica.address);
  const cuts = WAYS.flatMap(({ name, direction }) =>
    KINDS.map((kind) => (agent: PartitionedAgent): PartitionCase => ({
      name: `agent from all replicas, ${name}, ${kind}`,
      kind,
      agents: [agent],
      mustKeep: kind === "hold",
      cut: async () => await agent.place.cut(addresses, direction),
      heal: agent.place.heal,
    })),
  );
  const silences = KINDS.map((kind) => (agent: PartitionedAgent): PartitionCase => ({
    name: `agent from all replicas, half open, ${kind}`,
    kind,
    agents: [agent],
    mustKeep: kind === "hold",
    cut: async () => {
      for (const proxy of agent.proxies ?? []) proxy.silence();
      await Promise.resolve();
    },
    heal: async () => {
      for (const proxy of agent.proxies ?? []) proxy.heal();
      await Promise.resolve();
    },
  }));
  return [...deal(direct(cloud), cuts), ...deal(viaProxy(cloud), silences)];
}

/** The replica that the agent talks to goes; the other is there, so that the lease is kept, by another way. */
export function agentFromOne(cloud: PartitionedCloud): Wave {
  const addresses = cloud.replicas.map((replica) => replica.address);
  const cuts = WAYS.flatMap(({ name, direction }) =>
    KINDS.map((kind) => (agent: PartitionedAgent): PartitionCase => ({
      name: `agent from the replica that it talks to, ${name}, ${kind}`,
      kind,
      agents: [agent],
      mustKeep: true,
      cut: async () => {
        const peers = await agent.place.peers();
        await agent.place.cut([addresses.find((address) => peers.includes(address)) ?? addresses[0] ?? ""], direction);
      },
      heal: agent.place.heal,
    })),
  );
  const silences = KINDS.map((kind) => (agent: PartitionedAgent): PartitionCase => ({
    name: `agent from the first replica, half open, ${kind}`,
    kind,
    agents: [agent],
    // A connection to a half-open way is made and hangs in its handshake, which is left for the other replica in time.
    mustKeep: true,
    cut: async () => await Promise.resolve(agent.proxies?.[0]?.silence()),
    heal: async () => await Promise.resolve(agent.proxies?.[0]?.heal()),
  }));
  return [...deal(direct(cloud), cuts), ...deal(viaProxy(cloud), silences)];
}

/** Agents of that replica cannot renew by it, and do not know. */
export function replicaFromDatabase(cloud: PartitionedCloud): PartitionCase[] {
  const [replica] = cloud.replicas;
  return WAYS.flatMap(({ name, direction }) =>
    KINDS.map((kind): PartitionCase => ({
      name: `one replica from the database, ${name}, ${kind}`,
      kind,
      agents: cloud.agents,
      observer: 1,
      mustKeep: kind === "hold",
      cut: async () => await replica?.cut([cloud.databaseAddress], direction),
      heal: async () => await replica?.heal(),
    })),
  );
}

export function halfOpenDatabase(cloud: PartitionedCloud): PartitionCase[] {
  return KINDS.map((kind): PartitionCase => ({
    name: `one replica from the database, half open, ${kind}`,
    kind,
    agents: cloud.agents,
    observer: 0,
    mustKeep: false,
    cut: async () => await Promise.resolve(cloud.databaseProxy.silence()),
    heal: async () => await Promise.resolve(cloud.databaseProxy.heal()),
  }));
}

export function allFromDatabase(cloud: PartitionedCloud): PartitionCase[] {
  const [first, second] = cloud.replicas;
  return KINDS.map((kind): PartitionCase => ({
    name: `all replicas from the database, symmetric, ${kind}`,
    kind,
    agents: cloud.agents,
    mustKeep: kind === "hold",
    cut: async () => {
      await first?.cut([cloud.databaseAddress], "both");
      await second?.cut([cloud.databaseProxyAddress], "both");
    },
    heal: async () => {
      await first?.heal();
      await second?.heal();
    },
  }));
}
