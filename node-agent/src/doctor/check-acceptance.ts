import { createPrivateKey, X509Certificate } from "node:crypto";
import { SESSION_HEADER } from "@hostler/shared/node-protocol.ts";
import { problemSchema, type Problem } from "@hostler/shared/problem.ts";
import { describeError } from "@hostler/shared/errors.ts";
import { tlsOf } from "../control/control-plane-client.ts";
import { ok, problem, skipped, warning, type Outcome } from "./finding.ts";
import type { Answer, Reach } from "./reach.ts";
import type { Scene } from "./scene.ts";

/**
 * There is nothing on this path, and the control plane judges the certificate before it looks at the path: `not_found` means
 * accepted. Nothing is claimed, reported or changed by it.
 */
const PATH = "/node/v1/doctor";
const MATTERS = "the control plane gives this node no work";

/** Whether the control plane takes this node for what its certificate says. */
export async function checkAcceptance(scene: Scene): Promise<readonly Outcome[]> {
  if (scene.enrolment !== null || scene.identity.state !== "present")
    return [skipped("this host has no identity to be accepted yet")];
  const reach = scene.listeners.find(({ role }) => role === "node");
  const server = await reach?.server();
  const isOurs = server?.state === "done" && server.value.verdict.kind === "ours" && server.value.refusal === null;
  if (reach === undefined || !isOurs) return [skipped("the node listener is not reached, or is not ours")];
  const tls = tlsOf(scene.identity.stored);
  if (!isPair(tls)) return [skipped("the key and the certificate are no pair")];
  const { session } = scene;
  if (session === null) return [skipped("no agent was started on this identity yet: start it with hostler-agent run")];
  return [await askAs(reach, tls, { [SESSION_HEADER]: session })];
}

async function askAs(
  reach: Reach,
  tls: ReturnType<typeof tlsOf>,
  headers: Readonly<Record<string, string>>,
): Promise<Outcome> {
  try {
    return judgeAnswer(await reach.getAs(tls, PATH, headers));
  } catch (error) {
    return problem({
      text: `${reach.address} gave no answer to a request with this node's certificate: ${describeError(error)}`,
      matters: MATTERS,
      remedy: "See the control plane's log and its /healthz, then run this again.",
    });
  }
}

function judgeAnswer(answer: Answer): Outcome {
  const parsed = problemSchema.safeParse(answer.body);
  if (!parsed.success)
    return problem({
      text: `something other than a control plane answered (HTTP ${answer.status} without problem details)`,
      matters: MATTERS,
      remedy: "Dial the control plane itself: no proxy may stand in between.",
    });
  const { data } = parsed;
  if (data.code === "not_found") return ok("the control plane knows this node and its certificate");
  const trouble = { text: refusalText(data), matters: MATTERS, remedy: data.remedy };
  // What the control plane itself expects to pass is not this host's to mend.
  return data.retriable ? warning(trouble) : problem(trouble);
}

function refusalText({ title, detail, code }: Problem): string {
  return `the control plane says: ${title}${detail === undefined ? "" : `: ${detail}`} (${code})`;
}

/** OpenSSL refuses to load a key with another's certificate; the key's own check has named it. */
function isPair({ key, cert }: { readonly key: string; readonly cert: string }): boolean {
  try {
    return new X509Certificate(cert).checkPrivateKey(createPrivateKey(key));
  } catch {
    // One of the two cannot be read, which has been named as well.
    return false;
  }
}
