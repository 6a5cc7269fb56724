import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { imageSchema, nodeSchema } from "@hostler/shared/api/nodes.ts";
import { startAgentProgram } from "../../../deploy/demo/local-cloud.ts";
import type { Program } from "../../../deploy/demo/program.ts";
import { enrolKeptNode } from "../../support/kept-node.ts";
import { startKilledPostgres } from "../../support/killed-postgres.ts";
import { makeTestNetwork, type Place, type TestNetwork } from "../../support/partitions.ts";
import { startSilentProxy, type SilentProxy } from "../../support/silent-proxy.ts";
import { startSuitePlanes, type SuitePlanes } from "../../support/suite-planes.ts";
import { waitFor } from "../../support/wait-for.ts";

/** A fifth of what it is in a cloud, so that a case takes seconds; margins are shares of it. */
export const LEASE_MS = 6000;
const NODES_NAME = "nodes.hostler.test";
const PORTS = { public: 8080, enrol: 7443, node: 7444 } as const;
const REPLICAS = [0, 1] as const;

/** One agent in a network namespace of its own. */
export interface PartitionedAgent {
  readonly label: string;
  readonly nodeId: string;
  readonly place: Place;
  readonly effectLog: string;
  /** Its way to each replica where that leads through a proxy; null where it is direct. */
  readonly proxies: readonly SilentProxy[] | null;
}

export interface PartitionedCloud {
  readonly planes: SuitePlanes;
  readonly replicas: readonly Place[];
  readonly databaseAddress: string;
  readonly databaseProxyAddress: string;
  /** The second replica reaches the database through it, the first directly. */
  readonly databaseProxy: SilentProxy;
  readonly agents: readonly PartitionedAgent[];
  close(): Promise<void>;
}

/** PostgreSQL here, two replicas and the agents each in a namespace; `viaProxy` of the agents reach replicas through proxies here. */
export async function startPartitionedCloud(options: {
  readonly direct: number;
  readonly viaProxy: number;
}): Promise<PartitionedCloud> {
  const folder = await mkdtemp(join(tmpdir(), "hostler-partition-"));
  await chmod(folder, 0o755);
  const closers: (() => Promise<void>)[] = [async () => await rm(folder, { recursive: true, force: true })];
  const close = async (): Promise<void> => {
    for (const closer of closers.splice(0).toReversed())
      await closer().catch((error: unknown) => process.stderr.write(`${String(error)}\n`));
  };
  try {
    const network = await makeTestNetwork();
    closers.push(network.close);
    const databaseAddress = network.here(2);
    const database = await startKilledPostgres({ stateDir: folder, listen: databaseAddress });
    closers.push(database.stop);
    const databasePort = Number(new URL(database.url).port);
    const databaseProxy = await startSilentProxy({
      listen: { host: network.here(3), port: databasePort },
      target: { host: databaseAddress, port: databasePort },
    });
    closers.push(databaseProxy.close);
    const replicas = await placesOf(network);
    const planes = await startSuitePlanes(REPLICAS.length, {
      database,
      placeOf: (index) =>
        placeReplica(replicas[index] ?? raise(), {
          databaseUrl: index === 0 ? database.url : database.url.replace(databaseAddress, network.here(3)),
        }),
    });
    closers.push(planes.close);
    await planes.replicas[0]?.operator.upload("/api/ops/v1/images/tiny?format=raw", new Blob(["tiny"]), imageSchema);
    const agents: PartitionedAgent[] = [];
    for (let index = 0; index < options.direct + options.viaProxy; index += 1) {
      const hasProxy = index >= options.direct;
      agents.push(await addAgent({ index, hasProxy, network, replicas, planes, closers }));
    }
    await waitFor(
      "all nodes",
      async () => {
        const nodes = (await planes.replicas[0]?.operator.list("/api/ops/v1/nodes", nodeSchema)) ?? [];
        return nodes.filter((node) => node.state === "ready" && node.online).length === agents.length;
      },
      { timeoutMs: 60_000 },
    );
    return { planes, replicas, databaseAddress, databaseProxyAddress: network.here(3), databaseProxy, agents, close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function placesOf(network: TestNetwork): Promise<Place[]> {
  const places: Place[] = [];
  for (const index of REPLICAS) places.push(await network.addPlace(`replica${index}`, 11 + index, []));
  return places;
}

function placeReplica(
  place: Place,
  { databaseUrl }: { readonly databaseUrl: string },
): { env: Record<string, string>; prefix: readonly string[] } {
  const { address, prefix } = place;
  const env = {
    DATABASE_URL: databaseUrl,
    HOSTLER_LEASE_MS: String(LEASE_MS),
    HOSTLER_PUBLIC_LISTEN: `${address}:${PORTS.public}`,
    HOSTLER_ENROL_LISTEN: `${address}:${PORTS.enrol}`,
    HOSTLER_NODE_LISTEN: `${address}:${PORTS.node}`,
    HOSTLER_ADVERTISED_HOST: NODES_NAME,
  };
  return { env, prefix };
}

async function addAgent(options: {
  readonly index: number;
  readonly hasProxy: boolean;
  readonly network: TestNetwork;
  readonly replicas: readonly Place[];
  readonly planes: SuitePlanes;
  readonly closers: (() => Promise<void>)[];
}): Promise<PartitionedAgent> {
  const { index, hasProxy, network, replicas, planes, closers } = options;
  const label = `agent${index}`;
  const proxies: SilentProxy[] = [];
  const addresses: string[] = [];
  for (const [turn, replica] of replicas.entries()) {
    if (!hasProxy) {
      addresses.push(replica.address);
      continue;
    }
    // Each proxy has an address of its own: all ways to the node listener have the same port.
    const address = network.here(4 + 2 * (index % 2) + turn);
    const proxy = await startSilentProxy({
      listen: { host: address, port: PORTS.node },
      target: { host: replica.address, port: PORTS.node },
    });
    closers.push(proxy.close);
    proxies.push(proxy);
    addresses.push(address);
  }
  const hosts = addresses.map((address) => `${address} ${NODES_NAME}`);
  const place = await network.addPlace(label, 21 + index, hosts);
  const stateDir = join(planes.folder, label);
  const server = `${replicas[0]?.address}:${PORTS.enrol}`;
  const { identity } = await enrolKeptNode({ stateDir, server, token: await planes.makeToken(), name: label });
  await planes.sql`update nodes set labels = ${planes.sql.json({ host: label })} where id = ${identity.nodeId}`;
  const effectLog = join(planes.folder, `${label}.jsonl`);
  const agent: Program = startAgentProgram({
    stateDir,
    logPath: join(planes.folder, `${label}.log`),
    args: ["--simulate-gpus", "h100x8", "--drivers", "mock"],
    env: { HOSTLER_AGENT_RUN_DIR: join(planes.folder, `run-${label}`), HOSTLER_AGENT_MOCK_EFFECTS: effectLog },
    prefix: place.prefix,
  });
  closers.push(async () => await agent.stop(3000));
  return { label, nodeId: identity.nodeId, place, effectLog, proxies: hasProxy ? proxies : null };
}

function raise(): never {
  throw new Error("no such replica");
}
