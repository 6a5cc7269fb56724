import { judgeBy, listenerName, NO_SERVER } from "./check-network.ts";
import { ok, skipped, type Outcome } from "./finding.ts";
import type { ServerVerdict } from "./judge-server.ts";
import type { JudgedServer, Reach } from "./reach.ts";
import { SET_CLOCK } from "./remedies.ts";
import type { Scene } from "./scene.ts";
import type { TlsFault } from "./sockets.ts";
import { codeOf, spanText } from "./words.ts";

interface Words {
  readonly text: string;
  readonly remedy: string;
}

const MATTERS = "the agent talks to its control plane alone";
const NO_PROXY =
  "Dial the control plane itself: no TLS-terminating proxy, load balancer or inspecting firewall may stand in between.";

/** Whether it is our control plane that answers, by the certificates that it shows. */
export async function checkServer(scene: Scene): Promise<readonly Outcome[]> {
  if (scene.listeners.length === 0) return [skipped(NO_SERVER)];
  return await Promise.all(scene.listeners.map(async (reach) => await shakeHands(scene, reach)));
}

async function shakeHands(scene: Scene, reach: Reach): Promise<Outcome> {
  const name = listenerName(reach);
  const server = await reach.server();
  switch (server.state) {
    case "not_tried":
      return skipped(`${name}: there is no connection`);
    case "failed": {
      const { text, remedy } = TLS_TROUBLE[server.fault](reach, codeOf(server.error));
      return judgeBy(scene, reach, { text: `${name} ${text}`, matters: MATTERS, remedy });
    }
    case "done": {
      if (server.value.verdict.kind === "no_pin") return skipped(`${name}: the token has no pin to compare with`);
      const words = wordsAgainst(scene, server.value);
      if (words === null)
        return ok(`${name} is ${isByPin(scene) ? "the one that the token pins" : "our control plane"}`);
      return judgeBy(scene, reach, { text: `${name} ${words.text}`, matters: MATTERS, remedy: words.remedy });
    }
  }
}

function isByPin(scene: Scene): boolean {
  return scene.enrolment !== null;
}

/** What the handshake ended with, before any certificate was seen. */
const TLS_TROUBLE: Readonly<Record<TlsFault | "plain_http", (reach: Reach, code: string) => Words>> = {
  plain_http: ({ role }) => ({
    text: "answers in plain HTTP: it is another program, or a proxy that ends TLS",
    remedy: `Give the ${role} listener's port (unless set, ${role === "enrol" ? 7443 : 7444}; 8080 is the console's). ${NO_PROXY}`,
  }),
  silent: ({ host, port }) => ({
    text: "takes the connection and then says nothing",
    remedy: `See whether the program on port ${port} of ${host} hangs (restart it), and whether a firewall lets only the first packets pass.`,
  }),
  closed: ({ host, port }) => ({
    text: "closes the connection before TLS begins",
    remedy: `See the log of what listens on port ${port} of ${host}: a load balancer without a server behind it does this. ${NO_PROXY}`,
  }),
  old_tls: () => ({ text: "does not speak TLS 1.3, so it is not a control plane", remedy: NO_PROXY }),
  refused_us: (_reach, code) => ({
    text: `refuses the TLS handshake (${code}), which a control plane does not`,
    remedy: NO_PROXY,
  }),
  not_tls: ({ role }, code) => ({
    text: `does not speak TLS (${code}): it is another program`,
    remedy: `Give the ${role} listener's port (unless set, ${role === "enrol" ? 7443 : 7444}).`,
  }),
};

function wordsAgainst(scene: Scene, server: JudgedServer): Words | null {
  const { verdict, refusal } = server;
  const now = scene.deps.clock.now();
  switch (verdict.kind) {
    case "ours":
      // OpenSSL looks at more than we do, and the agent's connections go by what it says.
      return refusal === null ? null : { text: `shows a certificate that TLS refuses (${refusal})`, remedy: NO_PROXY };
    case "other_root":
    case "not_a_server":
      return strangerWords(scene, verdict);
    case "other_name":
      return {
        text: "shows a certificate of our root for another name: another control plane answers there",
        remedy: "Correct the address: each trust domain has its own control plane.",
      };
    case "expired": {
      const { subject, validToDate } = verdict.certificate;
      const ago = spanText(now.getTime() - validToDate.getTime());
      return {
        text: `shows a certificate (${subject}) that expired at ${validToDate.toISOString()}, ${ago} ago by this host's clock`,
        remedy: "See the clock above. If it is right, restart the control plane: it issues itself a new certificate.",
      };
    }
    case "not_yet_valid": {
      const { subject, validFromDate } = verdict.certificate;
      const ahead = spanText(validFromDate.getTime() - now.getTime());
      return {
        text: `shows a certificate (${subject}) that begins at ${validFromDate.toISOString()}, ${ahead} from now by this host's clock`,
        remedy: `See the clock above. ${SET_CLOCK}`,
      };
    }
    case "no_pin":
      return null;
  }
}

function strangerWords(scene: Scene, verdict: ServerVerdict): Words {
  const root = isByPin(scene) ? "the root that the token pins" : "a root that this host trusts";
  const evidence =
    verdict.kind === "not_a_server" ? "its certificate is not a server's" : `its certificate does not lead to ${root}`;
  const address = isByPin(scene)
    ? "Check --server, and that the token was made on that control plane."
    : "Check that the address is still the control plane's; one that was set up anew has another root, and hosts enrol with it again.";
  return {
    text: `is not ours: ${evidence}; another control plane or a TLS-terminating proxy answers there`,
    remedy: `${address} ${NO_PROXY}`,
  };
}
