import { admit } from "./provision/admit.ts";
import { bind } from "./provision/bind.ts";
import { carve } from "./provision/carve.ts";
import { commit } from "./provision/commit.ts";
import { compute } from "./provision/compute.ts";
import { disk } from "./provision/disk.ts";
import { fabric } from "./provision/fabric.ts";
import { guestReady } from "./provision/guest-ready.ts";
import { health } from "./provision/health.ts";
import { image } from "./provision/image.ts";
import { network } from "./provision/network.ts";
import { preflight } from "./provision/preflight.ts";
import { quiesce } from "./provision/quiesce.ts";
import { reserve } from "./provision/reserve.ts";
import { sanitize } from "./provision/sanitize.ts";
import { seed } from "./provision/seed.ts";
import { start } from "./provision/start.ts";
import type { Phase, ProvisionContext } from "./phase.ts";

/** The way up, in the order of PROVISION_PHASES; a test holds the two together. */
export const PROVISION_STEPS: readonly Phase<ProvisionContext>[] = [
  admit,
  preflight,
  reserve,
  image,
  disk,
  seed,
  network,
  compute,
  health,
  quiesce,
  carve,
  bind,
  sanitize,
  fabric,
  start,
  guestReady,
  commit,
];
