import { nodeSchema } from "@hostler/shared/api/nodes.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { idSchema } from "@hostler/shared/ids.ts";
import type { ApiClient } from "./api-client.ts";

export const NODES = "/api/ops/v1/nodes";

/** Where the API has a host, given by its id or by its name. Throws when no host has the name, or several have. */
export async function nodePath(client: Pick<ApiClient, "list">, node: string): Promise<string> {
  if (idSchema("node").safeParse(node).success) return `${NODES}/${node}`;
  const named = (await client.list(NODES, nodeSchema)).filter(({ name }) => name === node);
  const [found] = named;
  if (found === undefined)
    throw new AppError("not_found", { detail: `No host has the name or id ${node}. See 'hostler nodes list'.` });
  if (named.length > 1)
    throw new AppError("conflict", {
      detail: `${named.length} hosts are called ${node}. Give the id of one: ${named.map(({ id }) => id).join(", ")}.`,
    });
  return `${NODES}/${found.id}`;
}
