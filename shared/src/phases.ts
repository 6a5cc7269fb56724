/**
 * The phases of a slice's way up and down, in order. One row a phase: what the tenant reads while it runs.
 * Nothing before `health` touches a GPU, so a failed download never costs a GPU reset.
 */
export const PROVISION_PHASES = {
  admit: "Check the task and open the journal",
  preflight: "Ask the host what it can do",
  reserve: "Take the host's own resources",
  image: "Fetch and verify the base image",
  disk: "Create the disk",
  seed: "Write the first-boot settings",
  network: "Connect the network, deny by default",
  compute: "Set memory and CPUs aside",
  health: "Check the GPUs",
  quiesce: "Make the GPUs idle",
  carve: "Create the GPU instances",
  bind: "Hand the GPUs to the slice",
  sanitize: "Reset the GPUs",
  fabric: "Join the NVLink fabric",
  start: "Start the machine",
  guest_ready: "Wait for the guest",
  commit: "Seal the journal",
} as const;
export type ProvisionPhase = keyof typeof PROVISION_PHASES;
export const PROVISION_PHASE_NAMES = Object.keys(PROVISION_PHASES) as readonly ProvisionPhase[];

/** The way down, in the order of risk: the machine first, then its GPUs, then what held it. */
export const RELEASE_PHASES = {
  drain: "Close the way in",
  power_down: "Ask the guest to shut down",
  force_off: "End the machine",
  unit: "Remove its unit and sockets",
  evidence: "Keep the logs",
  fabric_off: "Leave the NVLink fabric",
  reset: "Reset the GPUs",
  host_bind: "Give the GPUs back to the host",
  health: "Check the GPUs",
  scrub: "Prove that GPU memory is clean",
  uncarve: "Destroy the GPU instances",
  persist: "Restore the GPUs' settings",
  disk_erase: "Erase the disk",
  compute: "Give memory and CPUs back",
  network: "Remove the network",
  secrets: "Erase the seed and keys",
  return: "Return the slots with proofs",
} as const;
export type ReleasePhase = keyof typeof RELEASE_PHASES;
export const RELEASE_PHASE_NAMES = Object.keys(RELEASE_PHASES) as readonly ReleasePhase[];

export type PhaseName = ProvisionPhase | ReleasePhase;
