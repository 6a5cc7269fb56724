import type { Scene } from "./scene.ts";

/** How a host becomes a node anew. Moves the state aside and deletes nothing: slices may still lie in it. */
export function enrolAgain(scene: Pick<Scene, "stateDir" | "identity">): string {
  const server = scene.identity.state === "present" ? scene.identity.stored.server : "HOST:7443";
  return `Stop the agent, put its state aside (mv ${scene.stateDir} ${scene.stateDir}.old), and enrol with a new token: hostler-agent enroll --server ${server} --token TOKEN`;
}

export const SET_CLOCK =
  "Set this host's clock: timedatectl set-ntp true (see how it is with: timedatectl timesync-status).";

export const NO_IDENTITY = "there is no identity to look at";
