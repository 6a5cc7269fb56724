import { AppError } from "@hostler/shared/errors.ts";

/** What of an HTTP answer says where its body begins. */
export interface RangeAnswer {
  readonly statusCode: number;
  readonly contentRange: string | undefined;
  readonly body: AsyncIterable<Uint8Array> & { destroy(): unknown };
}

/**
 * The body from `offset` on. A server, or a proxy before it, may ignore the range that was asked for and send all: what is known
 * already is then read and thrown away. Rejects with `service_unavailable` when the answer begins elsewhere.
 */
export function bodyFrom(answer: RangeAnswer, offset: number): AsyncIterable<Uint8Array> {
  if (offset === 0 && answer.statusCode === 200) return answer.body;
  if (answer.statusCode === 200) return skip(answer.body, offset);
  const begin = /^bytes (\d+)-/.exec(answer.contentRange ?? "")?.[1];
  if (answer.statusCode === 206 && begin === String(offset)) return answer.body;
  answer.body.destroy();
  throw new AppError("service_unavailable", {
    detail: `The image was asked for from byte ${offset}; the answer ${answer.statusCode} gave "${answer.contentRange ?? "no range"}".`,
  });
}

async function* skip(body: AsyncIterable<Uint8Array>, bytes: number): AsyncGenerator<Uint8Array> {
  let left = bytes;
  for await (const chunk of body) {
    if (chunk.length > left) yield chunk.subarray(left);
    left = Math.max(0, left - chunk.length);
  }
}
