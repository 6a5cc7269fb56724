import { Agent } from "node:https";
import { makeP256Key, signEnrolProof } from "@hostler/pki";
import { NODE_PATHS } from "@hostler/shared/node-protocol.ts";
import type { ScriptedNode } from "../../support/scripted-node.ts";
import { quantile } from "../../support/suite.ts";
import { outcomeOfAsking } from "./ask.ts";
import type { Attack } from "./attack.ts";
import { claimsOf } from "./proofs.ts";
import { pollFor } from "./slow.ts";
import type { Stage } from "./stage.ts";

const NOBODYS_TOKEN = "7777777777";
/** The rows of a stranger are rationed: six hundred and then one a second. */
const AUDIT_ROWS_MAX = 620;
const AT_ONCE = 32;
const WATCH_MS = 5000;
/** Generous: the flood, the control plane, its database and the good agent share two processors here. */
const GOOD_POLL_P99_MS_MAX = 1000;

/** A stranger sends proofs that are well signed for a token that nobody made, as fast as they are answered. */
export function floodAttack(stage: Stage, good: ScriptedNode, say: (line: string) => void): Attack {
  return {
    name: "flood: proofs with an unknown token, while good agents poll",
    expects: ["served"],
    isSlow: true,
    run: async () => {
      const { token } = await stage.makeToken();
      const proof = await signEnrolProof(makeP256Key(), { ...claimsOf(token), tokenId: NOBODYS_TOKEN });
      const agent = new Agent({ ...stage.plainTls, keepAlive: true, maxSockets: AT_ONCE });
      const target = { agent, port: stage.enrolPort, path: NODE_PATHS.enrol };
      const refusals: string[] = [];
      let isOver = false;
      const strangers = Array.from({ length: AT_ONCE }, async () => {
        while (!isOver) refusals.push(await outcomeOfAsking(target, { proof }));
      });
      const durations = await pollFor(good, WATCH_MS);
      isOver = true;
      await Promise.all(strangers);
      agent.destroy();
      const [kept] = await stage.sql<{ rows: number }[]>`
        select count(*)::int as rows from audit_log where target_id = ${NOBODYS_TOKEN} and action = 'node.enrol'
      `;
      if ((kept?.rows ?? 0) > AUDIT_ROWS_MAX) return `${kept?.rows} rows in the audit log, which nobody can delete`;
      const p99 = Math.round(quantile(durations, 0.99));
      say(`flood: ${Math.round((refusals.length * 1000) / WATCH_MS)} refusals a second, good polls ${p99} ms at p99`);
      const odd = refusals.find((code) => code !== "bootstrap_token_unknown" && code !== "rate_limited");
      if (odd !== undefined) return odd;
      return p99 <= GOOD_POLL_P99_MS_MAX ? "served" : `a good poll took ${p99} ms`;
    },
  };
}
