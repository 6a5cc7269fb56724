import { isCardName } from "./cards.ts";
import type { Fault } from "./faults.ts";
import { isCommandKind } from "./arguments.ts";
import type { StandInGpu, StandInState } from "./state.ts";

/**
 * The state file, which a person may have edited. By hand and not with a schema: each call of the stand-in is a process, and
 * loading zod takes longer than all that it does.
 */
export function parseState(text: string, path: string): StandInState {
  const reader = readerOf(path, "", parseJson(text, path));
  return {
    driverVersion: reader.at("driverVersion").text(),
    cudaVersion: reader.at("cudaVersion").text(),
    gpus: reader.at("gpus").list().map(gpuOf),
    faults: reader.at("faults").list().map(parseFault),
  };
}

function gpuOf(reader: Reader): StandInGpu {
  const card = reader.at("card").text();
  if (!isCardName(card)) throw reader.at("card").wrong("a card of cards.ts");
  return {
    card,
    uuid: reader.at("uuid").text(),
    busId: reader.at("busId").text(),
    serial: reader.at("serial").text(),
    persistence: reader.at("persistence").flag(),
    migMode: reader.at("migMode").flag(),
    migPending: reader.at("migPending").flag(),
    uncorrectedBefore: reader.at("uncorrectedBefore").number(),
    rowsRemapped: reader.at("rowsRemapped").number(),
    instances: reader
      .at("instances")
      .list()
      .map((instance) => ({
        ...placeOf(instance),
        computeInstances: instance.at("computeInstances").list().map(placeOf),
      })),
  };
}

function placeOf(reader: Reader): { readonly id: number; readonly profileId: number; readonly start: number } {
  return {
    id: reader.at("id").number(),
    profileId: reader.at("profileId").number(),
    start: reader.at("start").number(),
  };
}

/** What a fault leaves out has its default: on every call, on every GPU, for ever, before the call does anything. */
function parseFault(reader: Reader): Fault {
  const scope = {
    on: reader.at("on").isGiven() ? reader.at("on").list().map(kindOf) : null,
    gpu: reader.at("gpu").isGiven() ? reader.at("gpu").text() : null,
    calls: reader.at("calls").isGiven() ? reader.at("calls").number() : null,
  };
  const whenReader = reader.at("when");
  const when = whenReader.isGiven() && whenReader.text() === "after" ? "after" : "before";
  const kind = reader.at("kind").text();
  switch (kind) {
    case "hang": {
      const ms = reader.at("ms").isGiven() ? reader.at("ms").number() : null;
      const ignoresSigterm = reader.at("ignoresSigterm").isGiven() && reader.at("ignoresSigterm").flag();
      return { ...scope, kind, ms, when, ignoresSigterm };
    }
    case "fail":
      return { ...scope, kind, message: reader.at("message").text(), exitCode: reader.at("exitCode").number(), when };
    case "library_mismatch":
      return { ...scope, kind, libraryVersion: reader.at("libraryVersion").text() };
    case "field":
      return { ...scope, kind, field: reader.at("field").text(), value: reader.at("value").text() };
    case "lost":
      return { ...scope, kind, reason: reader.at("reason").text() };
    case "ecc":
      return { ...scope, kind, count: reader.at("count").number() };
    case "process":
      return {
        ...scope,
        kind,
        pid: reader.at("pid").number(),
        name: reader.at("name").text(),
        memoryMib: reader.at("memoryMib").number(),
        gpuInstance: reader.at("gpuInstance").isGiven() ? reader.at("gpuInstance").number() : null,
      };
    case "half":
    case "lie":
    case "row_remap":
    case "absent":
      return { ...scope, kind };
    default:
      throw reader.at("kind").wrong("a kind of fault that faults.ts lists");
  }
}

function kindOf(reader: Reader): NonNullable<Fault["on"]>[number] {
  const kind = reader.text();
  if (!isCommandKind(kind)) throw reader.wrong("a kind of call");
  return kind;
}

function parseJson(text: string, path: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new Error(`The stand-in's state ${path} is not JSON.`, { cause });
  }
}

/** A place in the file, which knows its own name for the message. */
interface Reader {
  at(key: string): Reader;
  list(): Reader[];
  text(): string;
  number(): number;
  flag(): boolean;
  isGiven(): boolean;
  wrong(expected: string): Error;
}

function readerOf(file: string, place: string, value: unknown): Reader {
  const wrong = (expected: string): Error =>
    new Error(
      `The stand-in's state ${file} has at ${place === "" ? "its top" : place} something else than ${expected}.`,
    );
  return {
    at: (key) => {
      if (typeof value !== "object" || value === null) throw wrong("an object");
      return readerOf(file, `${place}.${key}`, Reflect.get(value, key));
    },
    list: () => {
      if (!Array.isArray(value)) throw wrong("a list");
      return value.map((item: unknown, index) => readerOf(file, `${place}[${index}]`, item));
    },
    text: () => {
      if (typeof value !== "string") throw wrong("a text");
      return value;
    },
    number: () => {
      if (typeof value !== "number") throw wrong("a number");
      return value;
    },
    flag: () => {
      if (typeof value !== "boolean") throw wrong("true or false");
      return value;
    },
    isGiven: () => value !== undefined && value !== null,
    wrong,
  };
}
