import { isIP } from "node:net";
import { ok, problem, skipped, warning, type Outcome } from "./finding.ts";
import type { Reach } from "./reach.ts";
import type { Scene } from "./scene.ts";
import type { TcpFault } from "./sockets.ts";
import { codeOf } from "./words.ts";

export const NO_SERVER = "no control plane is known; try one with --server HOST:PORT --token TOKEN";
const CUT_OFF = "the agent only dials out, and this is where to";

/** Whether the control plane's name leads to an address. */
export async function checkDns(scene: Scene): Promise<readonly Outcome[]> {
  const byHost = [...new Map(scene.listeners.map((reach) => [reach.host, reach])).values()];
  if (byHost.length === 0) return [skipped(NO_SERVER)];
  return await Promise.all(byHost.map(lookUp));
}

async function lookUp(reach: Reach): Promise<Outcome> {
  const { host } = reach;
  if (isIP(host) !== 0) return skipped(`${host} is an address, there is no name to resolve`);
  const found = await reach.addresses();
  switch (found.state) {
    case "done":
      return ok(`${host} is ${found.value.map(({ address }) => address).join(", ")}`);
    case "failed":
      return unresolved(host, codeOf(found.error));
    case "not_tried":
      return skipped("not tried");
  }
}

function unresolved(host: string, code: string): Outcome {
  if (code === "ENOTFOUND")
    return problem({
      text: `${host} is not a name that the resolver knows (ENOTFOUND)`,
      matters: CUT_OFF,
      remedy: `Check the spelling and the DNS record: getent hosts ${host}. For a name that DNS does not have, add a line to /etc/hosts.`,
    });
  return problem({
    text: `the resolver gave no answer for ${host} (${code === "" || code === "ABORT_ERR" ? "timed out" : code})`,
    matters: CUT_OFF,
    remedy: `Check that the name servers in /etc/resolv.conf are reachable from here: getent hosts ${host}; resolvectl status`,
  });
}

/** Whether each listener takes connections. */
export async function checkPorts(scene: Scene): Promise<readonly Outcome[]> {
  if (scene.listeners.length === 0) return [skipped(NO_SERVER)];
  return await Promise.all(scene.listeners.map(async (reach) => await dial(scene, reach)));
}

async function dial(scene: Scene, reach: Reach): Promise<Outcome> {
  const name = listenerName(reach);
  const connected = await reach.connection();
  switch (connected.state) {
    case "done":
      return ok(`${name} takes connections`);
    case "not_tried":
      return skipped(`${name}: its name has no address`);
    case "failed": {
      const { text, remedy } = TCP_TROUBLE[connected.fault](reach, codeOf(connected.error));
      return judgeBy(scene, reach, { text: `${name} ${text}`, matters: CUT_OFF, remedy });
    }
  }
}

/** What keeps a host from its control plane, by what the connection ended with. */
const TCP_TROUBLE: Readonly<Record<TcpFault, (reach: Reach, code: string) => { text: string; remedy: string }>> = {
  refused: ({ port }) => ({
    text: "refuses connections: nothing listens there",
    remedy: `Start the control plane, or correct the port: on its host, ss -ltn 'sport = :${port}' shows whether it listens, and on which address. A firewall that rejects looks the same.`,
  }),
  timed_out: ({ port }) => ({
    text: "does not answer: packets to it are dropped",
    remedy: `Open TCP port ${port} from this host to it in the firewalls on the way (security groups, nft list ruleset on both), and check that the machine is up.`,
  }),
  unreachable: ({ host }, code) => ({
    text: `cannot be reached: there is no route to it (${code})`,
    remedy: `Check this host's addresses and routes: ip route get ADDRESS for what getent ahosts ${host} shows; ip address`,
  }),
  forbidden: ({ port }, code) => ({
    text: `may not be dialled from here (${code}): this host's own firewall forbids it`,
    remedy: `Allow outgoing TCP to port ${port}: nft list ruleset`,
  }),
  broken: ({ host, port }, code) => ({
    text: `cannot be reached (${code === "" ? "the connection broke" : code})`,
    remedy: `Try it by hand: curl -vk https://${host}:${port}/`,
  }),
};

/** An enrolled host works without the enrol listener, so its trouble there can wait. */
export function judgeBy(
  scene: Scene,
  reach: Reach,
  trouble: { readonly text: string; readonly remedy: string; readonly matters: string },
): Outcome {
  return scene.enrolment === null && reach.role === "enrol"
    ? warning({ ...trouble, matters: "this host works without it, but could not enrol again" })
    : problem(trouble);
}

export function listenerName({ role, address }: Reach): string {
  return `${role} listener ${address}`;
}
