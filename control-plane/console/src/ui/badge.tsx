import type { JSX } from "preact";

const TONES: Readonly<Record<string, string>> = {
  active: "good",
  ready: "good",
  succeeded: "good",
  requested: "busy",
  running: "busy",
  retrying: "busy",
  provisioning: "busy",
  releasing: "busy",
  enrolled: "busy",
  draining: "busy",
  failed: "bad",
  down: "bad",
  quarantined: "bad",
  frozen: "bad",
  release_failed: "bad",
  revoked: "bad",
  offline: "bad",
};

/** A state as a coloured word; the word stays readable without the colour. */
export function Badge({ state }: { readonly state: string }): JSX.Element {
  return <span class={`badge ${TONES[state] ?? "plain"}`}>{state.replaceAll("_", " ")}</span>;
}
