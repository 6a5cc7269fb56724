import { normalPciAddress } from "./pci-address.ts";
import type { KernelMessage } from "./parse-kernel-log.ts";

interface Happened {
  readonly monotonicUs: number | null;
  /** Null where the line does not name a device that can be read. */
  readonly pciAddress: string | null;
  readonly text: string;
}

/** What the kernel says about GPUs, their switches and devices on VFIO. */
export type GpuEvent = Happened &
  (
    | { readonly kind: "xid"; readonly number: number; readonly pid: number | null; readonly process: string | null }
    /** An Xid line whose number cannot be read: something happened and nobody knows what. */
    | { readonly kind: "xid_unreadable" }
    | { readonly kind: "sxid"; readonly number: number; readonly isFatal: boolean }
    | { readonly kind: "fallen_off_bus" }
    | { readonly kind: "init_failed" }
    | { readonly kind: "removed_in_use" }
    | { readonly kind: "stuck_in_d3cold" }
    | { readonly kind: "not_ready"; readonly gaveUp: boolean }
    | { readonly kind: "unbind_blocked"; readonly pid: number; readonly process: string }
  );

type Detail = GpuEvent extends infer Event ? (Event extends GpuEvent ? Omit<Event, keyof Happened> : never) : never;

interface Rule {
  readonly pattern: RegExp;
  read(groups: Readonly<Record<string, string | undefined>>): Detail;
}

const ADDRESS = String.raw`(?<pci>(?:PCI:)?[0-9a-fA-F]{2,8}(?::[0-9a-fA-F]{2}){1,2}(?:\.[0-7])?)`;
const rule = (pattern: string, read: Rule["read"]): Rule => ({ pattern: new RegExp(pattern), read });

/** In this order: the first that matches says what the line is. */
const RULES: readonly Rule[] = [
  rule(
    String.raw`NVRM: Xid \(${ADDRESS}\): (?<number>\d{1,5})(?:,|$)(?: pid='?(?<pid>\d+|<unknown>)'?,)?(?: name=(?<name>[^,]*),)?`,
    ({ number, pid, name }) => ({
      kind: "xid",
      number: Number(number),
      pid: pid !== undefined && /^\d+$/.test(pid) ? Number(pid) : null,
      process: name === undefined || name === "<unknown>" ? null : name,
    }),
  ),
  rule(String.raw`NVRM: Xid(?: \(${ADDRESS}\))?`, () => ({ kind: "xid_unreadable" })),
  rule(String.raw`SXid \(${ADDRESS}\): (?<number>\d{1,6}), (?<severity>\S+)`, ({ number, severity }) => ({
    kind: "sxid",
    number: Number(number),
    // A severity that is neither word is taken for the worse one.
    isFatal: !/^Non-fatal,?$/i.test(severity ?? ""),
  })),
  rule(String.raw`NVRM:.*? ${ADDRESS}\b.*fallen off the bus`, () => ({ kind: "fallen_off_bus" })),
  rule("NVRM:.*fallen off the bus", () => ({ kind: "fallen_off_bus" })),
  rule(String.raw`NVRM: GPU ${ADDRESS}: (?:RmInitAdapter|rm_init_adapter) failed`, () => ({ kind: "init_failed" })),
  rule(String.raw`NVRM: Attempting to remove device ${ADDRESS} with non-zero usage count`, () => ({
    kind: "removed_in_use",
  })),
  rule(String.raw`${ADDRESS}: Unable to change power state from D3cold`, () => ({ kind: "stuck_in_d3cold" })),
  rule(String.raw`${ADDRESS}: not ready \d+ms after \w+(?: \w+)?; (?<then>giving up|waiting)`, ({ then }) => ({
    kind: "not_ready",
    gaveUp: then === "giving up",
  })),
  rule(
    String.raw`${ADDRESS}: Device is currently in use, task "(?<process>[^"]*)" \((?<pid>\d+)\) blocked until device is released`,
    ({ process, pid }) => ({ kind: "unbind_blocked", pid: Number(pid), process: process ?? "" }),
  ),
];

/** Everything in the log that is about a GPU, in the log's order. Messages that say nothing of the kind are left out. */
export function findGpuEvents(messages: readonly KernelMessage[]): GpuEvent[] {
  return messages.flatMap((message) => {
    const event = eventOf(message);
    return event === null ? [] : [event];
  });
}

function eventOf({ text, monotonicUs }: KernelMessage): GpuEvent | null {
  for (const { pattern, read } of RULES) {
    const groups = pattern.exec(text)?.groups;
    if (groups === undefined) continue;
    const named = groups["pci"];
    const pciAddress = named === undefined ? null : normalPciAddress(named);
    return { ...read(groups), monotonicUs, pciAddress, text };
  }
  return null;
}
