import type { EventSink } from "./event-sink.ts";
import type { NatsSinks } from "./nats-sink.ts";
import type { SecretBox } from "./secret-box.ts";
import type { SinkRow } from "./sink-store.ts";
import { makeWebhookSink, type WebhookOptions } from "./webhook-sink.ts";

/** What delivers to a row, whatever its kind; throws when its secret cannot be opened. */
export function makeOpenSink(parts: {
  readonly secretBox: SecretBox;
  readonly nats: NatsSinks;
  readonly webhooks: Omit<WebhookOptions, "url" | "secret">;
}): (row: Pick<SinkRow, "id" | "kind" | "url" | "secretEncrypted">) => EventSink {
  return (row) => {
    const { id, kind, url } = row;
    const secret = parts.secretBox.open(row.secretEncrypted, id);
    switch (kind) {
      case "webhook":
        return makeWebhookSink({ ...parts.webhooks, url, secret });
      case "nats":
        return parts.nats.open({ id, url, settings: secret });
    }
  };
}
