import { createInterface } from "node:readline";
import { AppError, isErrorCode } from "@hostler/shared/errors.ts";
import { authoritySchema } from "@hostler/shared/trust.ts";
import { taskClaimsSchema } from "@hostler/shared/tasks.ts";
import type { Readable, Writable } from "node:stream";
import * as z from "zod";
import type { TaskSigner } from "./task-signer.ts";

/**
 * The signer over a pair of pipes: one JSON object a line in each direction, answers in any order, matched by `id`. Nothing but a
 * task's claims and a generation's number goes in, nothing but a signature and a public key comes out.
 */
const requestSchema = z.discriminatedUnion("op", [
  z.strictObject({ id: z.int(), op: z.literal("sign"), generation: z.int(), claims: taskClaimsSchema }),
  z.strictObject({ id: z.int(), op: z.literal("publicKey"), generation: z.int() }),
]);
const answerSchema = z.union([
  z.object({ id: z.int(), jws: z.string() }),
  z.object({ id: z.int(), key: authoritySchema.shape.taskKey }),
  z.object({ id: z.int(), error: z.object({ code: z.string(), detail: z.string() }) }),
]);
type Answer = z.infer<typeof answerSchema>;

export interface Pipes {
  readonly input: Readable;
  readonly output: Writable;
}

/** Serves until the input ends. A line that cannot be read is dropped: who sent it waits for nothing that exists. */
export async function serveSigner(
  signer: TaskSigner,
  pipes: Pipes,
  onRefused: (error: AppError) => void,
): Promise<void> {
  for await (const line of createInterface({ input: pipes.input })) {
    const request = requestSchema.safeParse(parseLine(line));
    if (!request.success) {
      onRefused(new AppError("signing_refused", { detail: "A request to the signer could not be read." }));
      const id = z.looseObject({ id: z.int() }).safeParse(parseLine(line));
      if (id.success) pipes.output.write(`${JSON.stringify(refusalOf(id.data.id, null))}\n`);
      continue;
    }
    void answer(signer, request.data, onRefused).then((text) => pipes.output.write(`${JSON.stringify(text)}\n`));
  }
}

async function answer(
  signer: TaskSigner,
  request: z.infer<typeof requestSchema>,
  onRefused: (error: AppError) => void,
): Promise<Answer> {
  try {
    if (request.op === "publicKey") return { id: request.id, key: await signer.publicKey(request.generation) };
    return { id: request.id, jws: await signer.sign(request.generation, request.claims) };
  } catch (error) {
    if (error instanceof AppError) onRefused(error);
    return refusalOf(request.id, error);
  }
}

function refusalOf(id: number, error: unknown): Answer {
  const { code, detail } =
    error instanceof AppError
      ? { code: error.code, detail: error.message }
      : { code: "internal", detail: error instanceof Error ? error.message : "The request could not be read." };
  return { id, error: { code, detail } };
}

/** The asking side. Every request that is open when the pipes end rejects with `service_unavailable`. */
export function connectSigner(pipes: Pipes): TaskSigner {
  const open = new Map<number, { resolve(answer: Answer): void; reject(error: unknown): void }>();
  let lastId = 0;
  let isOver = false;
  const lines = createInterface({ input: pipes.input });
  lines.on("line", (line) => {
    const parsed = answerSchema.safeParse(parseLine(line));
    if (!parsed.success) return;
    open.get(parsed.data.id)?.resolve(parsed.data);
    open.delete(parsed.data.id);
  });
  const end = (): void => {
    isOver = true;
    for (const waiting of open.values()) waiting.reject(signerAway());
    open.clear();
  };
  lines.once("close", end);
  pipes.output.once("error", end);
  const ask = async (request: object): Promise<Answer> => {
    if (isOver) throw signerAway();
    const id = ++lastId;
    const answered = new Promise<Answer>((resolve, reject) => open.set(id, { resolve, reject }));
    pipes.output.write(`${JSON.stringify({ id, ...request })}\n`);
    const got = await answered;
    if (!("error" in got)) return got;
    throw new AppError(isErrorCode(got.error.code) ? got.error.code : "internal", { detail: got.error.detail });
  };
  return {
    sign: async (generation, claims) => {
      const got = await ask({ op: "sign", generation, claims });
      if (!("jws" in got)) throw new Error("the signer answered something else");
      return got.jws;
    },
    publicKey: async (generation) => {
      const got = await ask({ op: "publicKey", generation });
      if (!("key" in got)) throw new Error("the signer answered something else");
      return got.key;
    },
  };
}

export function signerAway(): AppError {
  return new AppError("service_unavailable", { detail: "The task signer is not running; it is started again." });
}

function parseLine(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}
