import { operationSchema } from "@hostler/shared/api/common.ts";
import { incidentSchema } from "@hostler/shared/api/incidents.ts";
import { nodeSlicesSchema } from "@hostler/shared/api/slices.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { positional, textOf, type Command, type Invocation } from "../command.ts";
import { nodePath } from "../node-path.ts";
import { table } from "../output.ts";

/** What hosts have that they should not, or lack; and what is wrong at all. */
export const sliceCommands: readonly Command[] = [
  {
    words: "nodes slices",
    summary: "List the slices that a host shows, and what is the matter with them.",
    positionals: ["node"],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      const list = await client.get(`${await nodePath(client, positional(invocation, 0))}/slices`, nodeSlicesSchema);
      invocation.print.note(
        list.reportedAt === null
          ? "The host has not told of its slices yet."
          : `As told at ${list.reportedAt}${list.isWhole ? "" : "; the host has more than fit into a list"}.`,
      );
      invocation.print.result(list, ({ slices }) =>
        table(
          ["allocation", "generation", "driver", "shown", "gpus", "finding", "since", "tries"],
          slices.map(({ shown, finding, ...slice }) => [
            slice.allocationId,
            String(slice.generation),
            slice.driver,
            shown?.state ?? "not at all",
            String(shown?.gpuUuids.length ?? 0),
            finding === null ? "-" : `${finding.kind}: ${finding.detail}`,
            finding?.firstSeenAt ?? "-",
            finding === null ? "-" : `${finding.tries}${finding.isGivenUp ? ", given up" : ""}`,
          ]),
        ),
      );
      return 0;
    },
  },
  {
    words: "nodes slices remove",
    summary: "Remove a slice that is nobody's from a host, and erase its disk.",
    positionals: ["node", "allocation"],
    options: {
      generation: { type: "string", help: "Which generation of it, as 'nodes slices' shows it. Required." },
      reason: { type: "string", help: "Why; kept in the audit log and told to the host." },
    },
    run: async (invocation) => {
      const generation = Number(textOf(invocation, "generation"));
      if (!Number.isInteger(generation) || generation < 1)
        throw new AppError("malformed_request", {
          detail: "--generation is required: a number, as 'nodes slices' shows it.",
        });
      return await order(invocation, "removal", { generation, reason: textOf(invocation, "reason") });
    },
  },
  {
    words: "nodes slices rebuild",
    summary: "Bring an allocation's slice back on its host, with an empty disk where its own is gone.",
    positionals: ["node", "allocation"],
    options: {},
    run: async (invocation) => await order(invocation, "rebuild", {}),
  },
  {
    words: "incidents",
    summary: "List what is wrong, the newest first.",
    positionals: [],
    options: { all: { type: "boolean", help: "Also those that are over." } },
    run: async (invocation) => {
      const client = await invocation.client();
      const state = invocation.values["all"] === true ? "all" : "live";
      const incidents = await client.list(`/api/ops/v1/incidents?state=${state}`, incidentSchema);
      invocation.print.result(incidents, (items) =>
        table(
          ["opened", "state", "severity", "kind", "node", "about", "seen", "detail"],
          items.map((incident) => [
            incident.openedAt,
            incident.state,
            incident.severity,
            incident.kind,
            incident.nodeName ?? "-",
            incident.aboutId,
            String(incident.seenCount),
            incident.detail,
          ]),
        ),
      );
      return 0;
    },
  },
];

async function order(invocation: Invocation, what: "removal" | "rebuild", body: unknown): Promise<number> {
  const client = await invocation.client();
  const [node, allocation] = [positional(invocation, 0), positional(invocation, 1)];
  const path = `${await nodePath(client, node)}/slices/${encodeURIComponent(allocation)}/${what}`;
  const operation = await client.post(path, body, operationSchema);
  invocation.print.result(operation, ({ id }) => `Ordered: ${id}.`);
  return 0;
}
