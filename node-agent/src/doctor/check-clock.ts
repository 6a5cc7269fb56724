import { CLOCK_SKEW_MS_MAX } from "@hostler/shared/node-protocol.ts";
import { leafOf } from "./check-certificate.ts";
import { ok, problem, skipped, warning, type Outcome } from "./finding.ts";
import type { ServerVerdict } from "./judge-server.ts";
import { measureClock, type ClockOffset } from "./measure-clock.ts";
import type { Reach } from "./reach.ts";
import { SET_CLOCK } from "./remedies.ts";
import type { Scene } from "./scene.ts";
import { spanText } from "./words.ts";

const WARNING_MS = 30_000;
/** Of the listeners' own making or not, every path is answered, and every answer has a Date. */
const PATH = "/doctor/clock";
const MATTERS = "certificates and signed tasks are judged by the time";

/** This host's clock against the control plane's; without one that answers, against what this host knows for sure. */
export async function checkClock(scene: Scene): Promise<readonly Outcome[]> {
  // Together, so that two listeners that do not answer cost the time of one.
  await Promise.all(scene.listeners.map(async (reach) => await reach.server()));
  for (const reach of scene.listeners) {
    const offset = await measureAt(scene, reach);
    if (offset !== null) return [judgeOffset(offset)];
  }
  return [checkAlone(scene)];
}

/** Null when nobody whose clock counts answers there. */
async function measureAt(scene: Scene, reach: Reach): Promise<ClockOffset | null> {
  const server = await reach.server();
  if (server.state !== "done" || !hasOurClock(server.value.verdict.kind)) return null;
  const { get } = server.value;
  // A connection that breaks ends the measurement; what broke it, the checks below find.
  const askDate = async (): Promise<Date | null> =>
    await get(PATH).then(
      ({ date }) => date,
      () => null,
    );
  return await measureClock(scene.deps.clock, askDate);
}

function hasOurClock(kind: ServerVerdict["kind"]): boolean {
  return ["ours", "expired", "not_yet_valid"].includes(kind);
}

function judgeOffset({ offsetMs, uncertaintyMs }: ClockOffset): Outcome {
  const direction = offsetMs < 0 ? "behind" : "ahead of";
  const text = `this host is ${spanText(offsetMs)} ${direction} the control plane (± ${spanText(uncertaintyMs)})`;
  const remedy = `${SET_CLOCK} If this host's time is right, the control plane's clock is wrong.`;
  if (Math.abs(offsetMs) > CLOCK_SKEW_MS_MAX) return problem({ text, matters: MATTERS, remedy });
  return Math.abs(offsetMs) > WARNING_MS ? warning({ text, matters: MATTERS, remedy }) : ok(text);
}

/** A clock can be proven wrong without any other: nothing here was made in the future. */
function checkAlone(scene: Scene): Outcome {
  const now = scene.deps.clock.now();
  const leaf = scene.identity.state === "present" ? leafOf(scene.identity.stored.identity.certificateChain) : null;
  const facts = [
    { what: "this version of the agent was made", at: scene.deps.builtAt },
    ...(leaf === null ? [] : [{ what: "this host's certificate was made", at: leaf.validFromDate }]),
  ];
  const contradiction = facts.find(({ at }) => now < at);
  if (contradiction === undefined)
    return skipped("no control plane of ours answered to compare with; by what this host knows its clock may be right");
  const { what, at } = contradiction;
  const lag = spanText(at.getTime() - now.getTime());
  const text = `this host's clock shows ${now.toISOString()}, ${lag} before ${what} (${at.toISOString()})`;
  return problem({ text, matters: MATTERS, remedy: SET_CLOCK });
}
