import { enrol } from "@hostler/node-agent/identity/enrol.ts";
import { makeMemoryFiles } from "@hostler/node-agent/testing/memory-files.ts";
import { makeP256Key, signEnrolProof } from "@hostler/pki";
import { systemClock } from "@hostler/shared/clock.ts";
import type { EnrolClaims } from "@hostler/shared/node-protocol.ts";
import { askToEnrol } from "./ask.ts";
import { ACCEPTED, outcomeOf, type Attack } from "./attack.ts";
import { claimsOf } from "./proofs.ts";
import type { Stage } from "./stage.ts";

const PARALLEL_USES = 100;

/** Tokens that are not worth anything, or not worth it twice. */
export function tokenAttacks(stage: Stage): Attack[] {
  const use = async (token: string, changes: Partial<EnrolClaims> = {}): Promise<string> =>
    await askToEnrol(stage, await signEnrolProof(makeP256Key(), { ...claimsOf(token), ...changes }));
  const unknown = (name: string, changes: (token: string) => Partial<EnrolClaims>): Attack => ({
    name: `token: ${name}`,
    expects: ["bootstrap_token_unknown"],
    run: async () => {
      const { token } = await stage.makeToken();
      return await use(token, changes(token));
    },
  });
  const typed = (name: string, damage: (token: string) => string): Attack => ({
    name: `token: ${name}`,
    expects: ["bootstrap_token_malformed"],
    run: async () => {
      const { token } = await stage.makeToken();
      const request = { server: stage.enrolAddress, token: damage(token), hostName: "host", agentVersion: "test" };
      return await outcomeOf(enrol({ files: makeMemoryFiles(), clock: systemClock }, request));
    },
  });
  const secretOf = (token: string): string => token.split(".")[2] ?? "";
  return [
    unknown("a wrong secret", () => ({ tokenSecret: "A".repeat(43) })),
    unknown("an empty secret", () => ({ tokenSecret: "" })),
    unknown("a secret that lacks its last character", (token) => ({ tokenSecret: secretOf(token).slice(0, -1) })),
    unknown("a secret with a space at its end", (token) => ({ tokenSecret: `${secretOf(token)} ` })),
    unknown("a secret in full-width letters", (token) => ({
      tokenSecret: secretOf(token).replaceAll(/[a-z]/g, (letter) => String.fromCharCode(letter.charCodeAt(0) + 0xfee0)),
    })),
    unknown("an id that nobody made", () => ({ tokenId: "0000000000" })),
    typed("cut short", (token) => token.slice(0, -3)),
    typed("with a part missing", (token) => token.split(".").slice(0, 3).join(".")),
    typed("with a part more", (token) => `${token}.x`),
    typed("in letters that look the same", (token) => token.replace("hst1", "hѕt1")),
    typed("with an invisible space", (token) => `${token.slice(0, 20)}\u200b${token.slice(20)}`),
    {
      name: "token: expired",
      expects: ["bootstrap_token_expired"],
      run: async () => {
        const { token, id } = await stage.makeToken();
        await stage.sql`update bootstrap_tokens set expires_at = now() - interval '1 second' where id = ${id}`;
        return await use(token);
      },
    },
    {
      name: "token: revoked",
      expects: ["bootstrap_token_revoked"],
      run: async () => {
        const { token, id } = await stage.makeToken();
        await stage.operator.remove(`/api/ops/v1/bootstrap-tokens/${id}`);
        return await use(token);
      },
    },
    {
      name: "token: used by another key before",
      expects: ["bootstrap_token_used"],
      run: async () => {
        const { token } = await stage.makeToken();
        await use(token);
        return await use(token);
      },
    },
    {
      name: "token: of another host",
      expects: ["permission_denied"],
      run: async () => await use((await stage.makeToken({ hostName: "somebody-else" })).token),
    },
    {
      name: `token: used ${PARALLEL_USES} times at once`,
      expects: [`1 identity, ${PARALLEL_USES - 1} bootstrap_token_used`],
      isSlow: true,
      run: async () => {
        const { token } = await stage.makeToken();
        const outcomes = await Promise.all(Array.from({ length: PARALLEL_USES }, async () => await use(token)));
        const made = outcomes.filter((outcome) => outcome === ACCEPTED).length;
        const used = outcomes.filter((outcome) => outcome === "bootstrap_token_used").length;
        return made > 1 ? ACCEPTED : `${made} identity, ${used} bootstrap_token_used`;
      },
    },
  ];
}
