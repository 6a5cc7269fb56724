import type { ParseArgsOptionDescriptor } from "node:util";
import type { ApiClient } from "./api-client.ts";

/** One command as data: its words, what it takes, what it does. Help and parsing walk the table of these. */
export interface Command {
  /** `nodes token create`. */
  readonly words: string;
  readonly summary: string;
  /** Names of the positional arguments, all required. */
  readonly positionals: readonly string[];
  readonly options: Readonly<Record<string, Option>>;
  /** Resolves with the exit code. */
  run(invocation: Invocation): Promise<number>;
}

export interface Option extends ParseArgsOptionDescriptor {
  readonly help: string;
}

export interface Invocation {
  readonly positionals: readonly string[];
  readonly values: Readonly<Record<string, string | boolean | readonly (string | boolean)[] | undefined>>;
  /** Signs in on first use, so that `help` and `login` work without. */
  client(): Promise<ApiClient>;
  readonly apiKey: () => Promise<string>;
  readonly print: Printer;
}

export interface Printer {
  /** The result: JSON with --json, else what `human` makes of it. */
  result<Value>(value: Value, human: (value: Value) => string): void;
  /** A line for the person, on stderr: never part of the result. */
  note(line: string): void;
  readonly json: boolean;
}

/** The single value of a string option. */
export function textOf(invocation: Invocation, name: string): string | undefined {
  const value = invocation.values[name];
  return typeof value === "string" ? value : undefined;
}

/** Every value of an option that may be repeated. */
export function textsOf(invocation: Invocation, name: string): string[] {
  const value = invocation.values[name];
  return Array.isArray(value) ? value.filter((item): item is string => typeof item === "string") : [];
}

export function positional(invocation: Invocation, index: number): string {
  const value = invocation.positionals[index];
  if (value === undefined) throw new Error(`positional ${index} is missing although the parser checked it`);
  return value;
}
