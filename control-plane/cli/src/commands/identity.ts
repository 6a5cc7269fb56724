import {
  apiKeyCreatedSchema,
  apiKeySchema,
  organizationSchema,
  projectSchema,
  ROLE_NAMES,
  type RoleName,
} from "@hostler/shared/api/identity.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { positional, textOf, textsOf, type Command } from "../command.ts";
import { table } from "../output.ts";

export const identityCommands: readonly Command[] = [
  {
    words: "organizations create",
    summary: "Make an organization.",
    positionals: ["name"],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      const organization = await client.post(
        "/api/ops/v1/organizations",
        { name: positional(invocation, 0) },
        organizationSchema,
      );
      invocation.print.result(organization, (value) => value.id);
      return 0;
    },
  },
  {
    words: "projects create",
    summary: "Make a project in an organization.",
    positionals: ["organization-id", "name"],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      const body = { organizationId: positional(invocation, 0), name: positional(invocation, 1) };
      invocation.print.result(await client.post("/api/ops/v1/projects", body, projectSchema), (value) => value.id);
      return 0;
    },
  },
  {
    words: "keys create",
    summary: "Make an API key; its secret is shown this once.",
    positionals: ["name"],
    options: {
      role: { type: "string", help: `One of ${ROLE_NAMES.join(", ")}.` },
      project: { type: "string", multiple: true, help: "Project id for the role member; may be repeated." },
    },
    run: async (invocation) => {
      const role = roleOf(textOf(invocation, "role"));
      const projects = textsOf(invocation, "project");
      if (role === "member" && projects.length === 0)
        throw new AppError("malformed_request", { detail: "The role member needs --project ID." });
      const bindings =
        role === "operator" ? [{ role, projectId: null }] : projects.map((projectId) => ({ role, projectId }));
      const client = await invocation.client();
      const created = await client.post(
        "/api/ops/v1/api-keys",
        { name: positional(invocation, 0), bindings },
        apiKeyCreatedSchema,
      );
      invocation.print.note("Keep it now; it is not shown again.");
      invocation.print.result(created, (value) => value.secret);
      return 0;
    },
  },
  {
    words: "keys list",
    summary: "List API keys.",
    positionals: [],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      const keys = await client.list("/api/ops/v1/api-keys", apiKeySchema);
      invocation.print.result(keys, (items) =>
        table(
          ["name", "prefix", "roles", "last used", "state", "id"],
          items.map((key) => [
            key.name,
            key.prefix,
            key.bindings.map((binding) => binding.role).join(","),
            key.lastUsedAt ?? "never",
            key.revokedAt === null ? "active" : "revoked",
            key.id,
          ]),
        ),
      );
      return 0;
    },
  },
  {
    words: "keys revoke",
    summary: "Make an API key useless.",
    positionals: ["id"],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      await client.remove(`/api/ops/v1/api-keys/${encodeURIComponent(positional(invocation, 0))}`);
      invocation.print.result({ revoked: positional(invocation, 0) }, (value) => `Revoked ${value.revoked}.`);
      return 0;
    },
  },
];

function roleOf(text: string | undefined): RoleName {
  const role = ROLE_NAMES.find((name) => name === text);
  if (role === undefined)
    throw new AppError("malformed_request", { detail: `keys create needs --role, one of ${ROLE_NAMES.join(", ")}.` });
  return role;
}
