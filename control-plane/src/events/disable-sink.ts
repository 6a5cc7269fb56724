import { recordChange } from "../audit/record-change.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Deps } from "../deps.ts";
import type { SinkKind } from "./event-sink.ts";
import { moveSink } from "./sink-store.ts";

/** What the events of a sink's own changes are called. */
export const SINK_TOPICS: Readonly<Record<SinkKind, string>> = { webhook: "webhook", nats: "nats_sink" };

/**
 * Delivers nothing more until somebody enables it, and says why in an event, the audit log and the log. Its position stays: whoever
 * enables it again misses nothing that is still kept. Does nothing to a sink that is not active.
 */
export async function disableSink(
  deps: Pick<Deps, "sql" | "clock" | "log">,
  sink: { readonly id: string; readonly kind: SinkKind; readonly projectId: string | null },
  reason: string,
): Promise<void> {
  const isDisabled = await inTransaction(deps.sql, async (tx) => {
    const version = await moveSink(tx, { id: sink.id, from: ["active"], to: "disabled", reason });
    if (version === undefined) return false;
    await recordChange(tx, deps.clock, {
      actor: "system:event-relay",
      topic: `${SINK_TOPICS[sink.kind]}.disabled`,
      targetId: sink.id,
      targetVersion: version,
      projectId: sink.projectId,
      requestId: null,
      body: { reason },
    });
    return true;
  });
  if (isDisabled) deps.log.warn({ sinkId: sink.id, kind: sink.kind, reason }, "event sink was disabled");
}
