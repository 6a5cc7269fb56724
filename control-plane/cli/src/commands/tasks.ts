import { allocationOperationSchema } from "@hostler/shared/api/allocations.ts";
import { deadTaskSchema } from "@hostler/shared/api/tasks.ts";
import { positional, type Command } from "../command.ts";
import { table } from "../output.ts";

const DEAD_TASKS = "/api/ops/v1/dead-tasks";

export const taskCommands: readonly Command[] = [
  {
    words: "tasks dead",
    summary: "List the tasks that lost their host three times in one phase.",
    positionals: [],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      const tasks = await client.list(DEAD_TASKS, deadTaskSchema);
      invocation.print.result(tasks, (items) =>
        table(
          ["id", "kind", "host", "about", "ended", "redriven", "reason"],
          items.map((item) => [
            item.id,
            item.kind,
            item.nodeId,
            item.targetId,
            item.endedAt,
            item.redrivenAt ?? "-",
            item.reason,
          ]),
        ),
      );
      return 0;
    },
  },
  {
    words: "tasks redrive",
    summary: "Try a dead release again.",
    positionals: ["id"],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      const path = `${DEAD_TASKS}/${positional(invocation, 0)}/redrive`;
      const released = await client.post(path, {}, allocationOperationSchema);
      invocation.print.result(released, (value) => value.operation.id);
      return 0;
    },
  },
];
