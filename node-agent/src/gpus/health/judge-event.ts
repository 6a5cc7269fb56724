import type { GpuEvent } from "../../host/kernel-log/gpu-events.ts";
import { decideXid } from "../../host/kernel-log/xid-policy.ts";
import type { Cure } from "./driver-words.ts";
import type { RuleFinding } from "./health-rules.ts";

type Kind = GpuEvent["kind"];
type Judge<K extends Kind> = (event: Extract<GpuEvent, { kind: K }>) => RuleFinding | null;

const quote = (text: string): string => JSON.stringify(text.slice(0, 300));
const device = (code: string, cure: Cure, words: string, { text }: GpuEvent): RuleFinding => ({
  code,
  cure,
  failureClass: "device",
  sentence: `${words} The kernel said: ${quote(text)}`,
});

/** What each event means for a GPU that is to be handed over. Null: nothing. */
const JUDGES: { readonly [K in Kind]: Judge<K> } = {
  xid: (event) => {
    const { action, meaning, isBlocking } = decideXid(event.number, event.text);
    if (!isBlocking) return null;
    const isReboot = action === "reboot" || (event.number === 154 && /Reboot/i.test(event.text));
    const words = `Xid ${event.number}: ${meaning}. ${isReboot ? "Reboot the host." : "Reset the GPU."}`;
    const finding = device("xid", isReboot ? "reboot" : "reset", words, event);
    return isReboot ? { ...finding, failureClass: "host" } : finding;
  },
  xid_unreadable: (event) => device("xid_unreadable", "reset", "An Xid that cannot be read: reset the GPU.", event),
  sxid: (event) =>
    event.isFatal
      ? {
          ...device("sxid", "reboot", `A fatal error of an NVSwitch (SXid ${event.number}): reboot the host.`, event),
          failureClass: "host",
        }
      : null,
  fallen_off_bus: (event) => ({
    ...device("gpu_lost", "reboot", "The GPU has fallen off the bus: reboot the host, then replace the GPU.", event),
    failureClass: "host",
  }),
  init_failed: (event) =>
    device("init_failed", "reboot", "The driver could not start the GPU: reboot the host.", event),
  removed_in_use: (event) =>
    device("removed_in_use", "reboot", "The GPU was taken from the driver while in use: reboot the host.", event),
  stuck_in_d3cold: (event) =>
    device(
      "stuck_in_d3cold",
      "reboot",
      "The GPU does not wake from D3cold: forbid it (d3cold_allowed), reboot.",
      event,
    ),
  not_ready: (event) =>
    event.gaveUp
      ? device("not_ready", "reboot", "The GPU did not come back after a reset: reboot the host.", event)
      : null,
  // History once the holder is gone; while it blocks, the phase that waits for it names it.
  unbind_blocked: () => null,
};

export function judgeEvent(event: GpuEvent): RuleFinding | null {
  // The table gives each kind its own judge; the compiler does not follow that through an index.
  const judge = JUDGES[event.kind] as Judge<Kind>;
  return judge(event);
}
