import { nodeSchema } from "@hostler/shared/api/nodes.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { DRAIN_POLICIES } from "@hostler/shared/states.ts";
import { positional, textOf, type Command } from "../command.ts";
import { nodePath } from "../node-path.ts";
import { parseDurationSeconds } from "../output.ts";

const REASON = { reason: { type: "string", help: "Why; kept with the host and in the audit log." } } as const;

const SUMMARIES = {
  cordon: "Place nothing new on a host; what runs goes on. Ends a drain half way, and a quarantine.",
  uncordon: "Place slices on a host again; calls a drain off.",
  quarantine: "Place nothing new on a host because something is wrong with it.",
  retire: "Take an empty host out of the fleet; its certificates are revoked. Final.",
  freeze: "Refuse a host, and every copy of it, until it is unfrozen; what runs on it goes on.",
  unfreeze: "Let the copy in that still runs; stop the other one first. The host stays cordoned.",
  revoke: "Refuse a host from now on and cut its connections. Final.",
} as const;

/** What moves a host from state to state, and its labels. */
export const nodeActionCommands: readonly Command[] = [
  ...(Object.keys(SUMMARIES) as (keyof typeof SUMMARIES)[]).map((verb): Command => ({
    words: `nodes ${verb}`,
    summary: SUMMARIES[verb],
    positionals: ["node"],
    options: REASON,
    run: async (invocation) => {
      const client = await invocation.client();
      const path = `${await nodePath(client, positional(invocation, 0))}/${verb}`;
      const node = await client.post(path, { reason: textOf(invocation, "reason") }, nodeSchema);
      invocation.print.result(node, (value) => `${value.name} is ${value.state}.`);
      return 0;
    },
  })),
  {
    words: "nodes drain",
    summary: "Empty a host, then leave it cordoned; 'nodes uncordon' calls it off.",
    positionals: ["node"],
    options: {
      policy: {
        type: "string",
        help: "wait until tenants release, or stop what is left after the notice. wait unless given.",
      },
      notice: { type: "string", help: "With --policy stop: how long tenants have, such as 30m. 1h unless given." },
      ...REASON,
    },
    run: async (invocation) => {
      const policy = DRAIN_POLICIES.find((name) => name === (textOf(invocation, "policy") ?? "wait"));
      if (policy === undefined)
        throw new AppError("malformed_request", { detail: `--policy is one of ${DRAIN_POLICIES.join(", ")}.` });
      const noticeSeconds = parseDurationSeconds(textOf(invocation, "notice") ?? "1h");
      if (noticeSeconds === null)
        throw new AppError("malformed_request", { detail: "--notice is not a duration. Write 0s, 30m, 1h or 1d." });
      const client = await invocation.client();
      const path = `${await nodePath(client, positional(invocation, 0))}/drain`;
      const body = { policy, noticeSeconds, reason: textOf(invocation, "reason") };
      const node = await client.post(path, body, nodeSchema);
      invocation.print.result(
        node,
        (value) => `${value.name} is ${value.state}, ${value.allocationsLeft} slices left.`,
      );
      return 0;
    },
  },
  {
    words: "nodes label",
    summary: "Set a label of a host (KEY=VALUE), or take it away (KEY-).",
    positionals: ["node", "label"],
    options: {},
    run: async (invocation) => {
      const label = positional(invocation, 1);
      const at = label.indexOf("=");
      if (at < 1 && !label.endsWith("-"))
        throw new AppError("malformed_request", {
          detail: `${label} is not a label. Write zone=a, or zone- to take it away.`,
        });
      const labels = at < 1 ? { [label.slice(0, -1)]: null } : { [label.slice(0, at)]: label.slice(at + 1) };
      const client = await invocation.client();
      const path = `${await nodePath(client, positional(invocation, 0))}/labels`;
      const node = await client.post(path, { labels }, nodeSchema);
      invocation.print.result(
        node,
        (value) =>
          `${value.name}: ${Object.entries(value.labels)
            .map(([key, text]) => `${key}=${text}`)
            .join(" ")}`,
      );
      return 0;
    },
  },
  {
    words: "nodes return-slot",
    summary: "Put a quarantined GPU of a host back into service, after a look at it.",
    positionals: ["node", "gpu"],
    options: { reason: { type: "string", help: "Why it is fit; kept in the audit log. Required." } },
    run: async (invocation) => {
      const reason = textOf(invocation, "reason");
      if (reason === undefined)
        throw new AppError("malformed_request", { detail: "Say with --reason why the GPU is fit to be handed out." });
      const gpu = positional(invocation, 1);
      const client = await invocation.client();
      const path = `${await nodePath(client, positional(invocation, 0))}/slots/${encodeURIComponent(gpu)}/return`;
      const node = await client.post(path, { reason }, nodeSchema);
      invocation.print.result(node, (value) => `${gpu} of ${value.name} is in service.`);
      return 0;
    },
  },
];
