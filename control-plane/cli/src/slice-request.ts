import { readFile } from "node:fs/promises";
import type { AllocationCreateInput } from "@hostler/shared/api/allocations.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { slicePortSchema, type SlicePort } from "@hostler/shared/tasks.ts";
import { textOf, textsOf, type Invocation } from "./command.ts";

/** The options that say what a slice shall be; every command that asks for slices takes them. */
export const SLICE_OPTIONS = {
  image: { type: "string", help: "Name of the image to start from." },
  gpus: { type: "string", help: "How many GPUs and of which kind: 1, or 2:h100." },
  vcpus: { type: "string", help: "Virtual CPUs; 1 unless given." },
  memory: { type: "string", help: "MiB of memory; 512 unless given." },
  disk: { type: "string", help: "GiB of disk; 4 unless given." },
  "ssh-key": { type: "string", multiple: true, help: "File with an SSH public key; may be repeated." },
  "user-data": { type: "string", help: "File given to the guest at first boot." },
  label: { type: "string", multiple: true, help: "KEY=VALUE; may be repeated." },
  "node-label": { type: "string", multiple: true, help: "KEY=VALUE that the host must have; may be repeated." },
  "spread-by": { type: "string", help: "Not on a host with another slice of the project that says the same word." },
  port: {
    type: "string",
    multiple: true,
    help: "Port of the slice to reach through its host: 8080, or 53/udp; may be repeated.",
  },
  bandwidth: {
    type: "string",
    help: "The most it sends and receives, Mbit/s; as much as the host gives unless given.",
  },
  project: { type: "string", help: "Project id; needed when the key sees several." },
} as const;

/** What the options ask for, but for the name. */
export async function sliceRequestOf(invocation: Invocation): Promise<Omit<AllocationCreateInput, "name">> {
  const image = textOf(invocation, "image");
  if (image === undefined)
    throw new AppError("malformed_request", { detail: "This needs --image. See 'hostler images list'." });
  const [count = "0", kind = null] = (textOf(invocation, "gpus") ?? "0").split(":");
  const userData = textOf(invocation, "user-data");
  return {
    image,
    gpus: { count: numberOf("--gpus", count), kind },
    ...(textOf(invocation, "vcpus") === undefined ? {} : { vcpus: numberOf("--vcpus", textOf(invocation, "vcpus")) }),
    ...(textOf(invocation, "memory") === undefined
      ? {}
      : { memoryMib: numberOf("--memory", textOf(invocation, "memory")) }),
    ...(textOf(invocation, "disk") === undefined ? {} : { diskGib: numberOf("--disk", textOf(invocation, "disk")) }),
    sshPublicKeys: await Promise.all(textsOf(invocation, "ssh-key").map(async (path) => (await readText(path)).trim())),
    userData: userData === undefined ? null : await readText(userData),
    labels: Object.fromEntries(textsOf(invocation, "label").map((text) => labelOf("--label", text))),
    nodeSelector: Object.fromEntries(textsOf(invocation, "node-label").map((text) => labelOf("--node-label", text))),
    spreadBy: textOf(invocation, "spread-by") ?? null,
    ...(textsOf(invocation, "port").length === 0 ? {} : { ports: textsOf(invocation, "port").map(portOf) }),
    ...(textOf(invocation, "bandwidth") === undefined
      ? {}
      : { bandwidthMbitPerSecond: numberOf("--bandwidth", textOf(invocation, "bandwidth")) }),
  };
}

export function numberOf(option: string, text: string | undefined): number {
  const value = Number(text);
  if (text === undefined || text === "" || !Number.isInteger(value))
    throw new AppError("malformed_request", { detail: `${option} ${text} is not a whole number.` });
  return value;
}

function portOf(text: string): SlicePort {
  const [, port, protocol = "tcp"] = /^(\d{1,5})(?:\/(tcp|udp))?$/.exec(text) ?? [];
  const read = slicePortSchema.safeParse({ protocol, port: Number(port) });
  if (!read.success)
    throw new AppError("malformed_request", { detail: `--port ${text} is not a port such as 8080 or 53/udp.` });
  return read.data;
}

function labelOf(option: string, text: string): [string, string] {
  const at = text.indexOf("=");
  if (at < 1) throw new AppError("malformed_request", { detail: `${option} ${text} is not KEY=VALUE.` });
  return [text.slice(0, at), text.slice(at + 1)];
}

async function readText(path: string): Promise<string> {
  return await readFile(path, "utf8").catch((error: unknown) => {
    throw new AppError("malformed_request", { detail: `${path} cannot be read.`, cause: error });
  });
}
