import { createHmac } from "node:crypto";
import { once } from "node:events";
import { request as httpRequest, type IncomingMessage } from "node:http";
import { request as httpsRequest } from "node:https";
import type { LookupFunction } from "node:net";
import type { Event } from "@hostler/shared/api/events.ts";
import type { Clock } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import { failed, type Delivery, type EventSink } from "./event-sink.ts";
import { addressInHost, isPublicAddress, publicLookup } from "./target-address.ts";

const TIMEOUT_MS = 10_000;
/** Of an answer's body so much is looked at, for the error; the rest is not read. */
const ANSWER_BYTES_MAX = 1024;
/** A receiver is somebody's small service more often than not. */
const IN_FLIGHT_MAX = 8;

export interface WebhookOptions {
  readonly url: string;
  readonly secret: string;
  /** For receivers on the operator's own network; off, nobody can make us talk to our own services. */
  readonly allowPrivate: boolean;
  readonly clock: Clock;
  readonly timeoutMs?: number;
  readonly lookup?: LookupFunction;
}

/** What a receiver computes over the very bytes of the body. The time is in it, so that an old message cannot be sent again. */
export function webhookSignature(secret: string, timestamp: string, body: string): string {
  return `v1=${createHmac("sha256", secret).update(`${timestamp}.${body}`).digest("hex")}`;
}

/** Whether a webhook may have this URL at all; a name is judged again at each delivery, by its addresses. Null or the reason. */
export function refusedUrl(text: string, allowPrivate: boolean): string | null {
  const url = new URL(text);
  if (url.protocol !== "https:" && !(allowPrivate && url.protocol === "http:")) return "Expected an https:// URL.";
  if (url.username !== "" || url.password !== "") return "Leave user and password out; verify the signature instead.";
  const address = addressInHost(url.hostname);
  if (address !== null && !allowPrivate && !isPublicAddress(address)) {
    return "This address is private, local or reserved, and refused here.";
  }
  return null;
}

/**
 * Posts events, one connection each. Delivered is what a 2xx answers within the time; everything else is a failure, redirects
 * as well: following one would send the event to where nobody judged the address.
 */
export function makeWebhookSink(options: WebhookOptions): EventSink {
  return {
    inFlightMax: IN_FLIGHT_MAX,
    deliver: async (event, signal) => {
      const refused = refusedUrl(options.url, options.allowPrivate);
      if (refused !== null) return failed(null, refused);
      const over = new AbortController();
      const timeoutMs = options.timeoutMs ?? TIMEOUT_MS;
      const late = options.clock.sleep(timeoutMs, over.signal).then(
        () => failed(null, `no answer within ${timeoutMs / 1000} s`),
        () => failed(null, "aborted"),
      );
      try {
        const inTime = AbortSignal.any([signal, over.signal]);
        const sent = post(event, options, inTime).catch((error: unknown) => failed(null, describeError(error)));
        const delivery = await Promise.race([sent, late]);
        signal.throwIfAborted();
        return delivery;
      } finally {
        over.abort();
      }
    },
  };
}

async function post(event: Event, options: WebhookOptions, signal: AbortSignal): Promise<Delivery> {
  const body = JSON.stringify(event);
  const timestamp = String(Math.floor(options.clock.now().getTime() / 1000));
  const url = new URL(options.url);
  const request = (url.protocol === "https:" ? httpsRequest : httpRequest)(url, {
    method: "POST",
    agent: false,
    signal,
    ...(options.allowPrivate ? {} : { lookup: options.lookup ?? publicLookup() }),
    headers: {
      "content-type": "application/json",
      "content-length": Buffer.byteLength(body),
      "user-agent": "hostler-webhooks/1",
      "hostler-event-id": event.id,
      "hostler-timestamp": timestamp,
      "hostler-signature": webhookSignature(options.secret, timestamp, body),
    },
  });
  try {
    request.end(body);
    const [response] = (await once(request, "response")) as [IncomingMessage];
    const status = response.statusCode ?? 0;
    if (status >= 200 && status < 300) return { outcome: "delivered", status };
    const text = await readStart(response);
    const what = status >= 300 && status < 400 ? "redirects are not followed" : text;
    return failed(status, `answered ${status}${what === "" ? "" : `: ${what}`}`);
  } finally {
    // The connection ends here, with whatever of the answer nobody reads.
    request.on("error", () => undefined);
    request.destroy();
  }
}

async function readStart(response: IncomingMessage): Promise<string> {
  let text = "";
  for await (const chunk of response) {
    text += String(chunk);
    if (text.length >= ANSWER_BYTES_MAX) break;
  }
  return text.slice(0, ANSWER_BYTES_MAX);
}
