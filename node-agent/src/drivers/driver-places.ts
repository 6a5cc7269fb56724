import { join } from "node:path";
import type { ContainerPlaces } from "./container/container-paths.ts";
import type { HostPlaces } from "./host/tenant-account.ts";
import type { QemuPlaces } from "./slices/slice-paths.ts";

/** Where each driver has its slices, below the agent's own two folders. */
export function driverPlaces(agent: QemuPlaces): {
  readonly qemu: QemuPlaces;
  readonly container: ContainerPlaces;
  readonly host: HostPlaces;
} {
  const { stateDir, runDir } = agent;
  return {
    qemu: { stateDir, runDir },
    container: {
      stateDir: join(stateDir, "containers"),
      runDir: join(runDir, "containers"),
      imagesDir: join(stateDir, "images"),
    },
    host: { stateDir: join(stateDir, "hosts"), runDir: join(runDir, "hosts"), etcDir: "/etc", homesDir: "/home" },
  };
}
