import { computeBack } from "./release/compute.ts";
import { diskErase } from "./release/disk-erase.ts";
import { drain } from "./release/drain.ts";
import { evidence } from "./release/evidence.ts";
import { fabricOff } from "./release/fabric-off.ts";
import { forceOff } from "./release/force-off.ts";
import { healthAfter } from "./release/health.ts";
import { hostBind } from "./release/host-bind.ts";
import { networkOff } from "./release/network.ts";
import { persist } from "./release/persist.ts";
import { powerDown } from "./release/power-down.ts";
import { reset } from "./release/reset.ts";
import { giveBack } from "./release/return.ts";
import { scrub } from "./release/scrub.ts";
import { secrets } from "./release/secrets.ts";
import { uncarve } from "./release/uncarve.ts";
import { unit } from "./release/unit.ts";
import type { Phase, ReleaseContext } from "./phase.ts";

/** The way down, in the order of RELEASE_PHASES; a test holds the two together. */
export const RELEASE_STEPS: readonly Phase<ReleaseContext>[] = [
  drain,
  powerDown,
  forceOff,
  unit,
  evidence,
  fabricOff,
  reset,
  hostBind,
  healthAfter,
  scrub,
  uncarve,
  persist,
  diskErase,
  computeBack,
  networkOff,
  secrets,
  giveBack,
];
