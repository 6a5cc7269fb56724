import { whoamiSchema } from "@hostler/shared/api/common.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { makeApiClient } from "../api-client.ts";
import { textOf, type Command } from "../command.ts";
import { saveConfig } from "../config.ts";
import { table } from "../output.ts";

export const sessionCommands: readonly Command[] = [
  {
    words: "login",
    summary: "Check a key and keep it for later commands.",
    positionals: [],
    options: {
      url: { type: "string", help: "Address of the control plane, such as http://127.0.0.1:8080." },
      key: { type: "string", help: "API key, hst_…" },
    },
    run: async (invocation) => {
      const url = textOf(invocation, "url");
      const apiKey = textOf(invocation, "key");
      if (url === undefined || apiKey === undefined)
        throw new AppError("malformed_request", { detail: "login needs --url and --key." });
      const config = { url: url.replace(/\/+$/, ""), apiKey };
      const whoami = await makeApiClient(config).get("/api/common/v1/whoami", whoamiSchema);
      const path = await saveConfig(config);
      invocation.print.result({ name: whoami.name, path }, () => `Signed in as ${whoami.name}. Kept in ${path}.`);
      return 0;
    },
  },
  {
    words: "whoami",
    summary: "Show who the key is and what it may do.",
    positionals: [],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      const whoami = await client.get("/api/common/v1/whoami", whoamiSchema);
      invocation.print.result(whoami, (value) =>
        [
          `${value.name} (${value.principalId})`,
          ...value.bindings.map((binding) => `  ${binding.role} on ${binding.scope}`),
          "",
          table(
            ["project", "organization", "id"],
            value.projects.map((project) => [project.name, project.organizationName, project.id]),
          ),
        ].join("\n"),
      );
      return 0;
    },
  },
];
