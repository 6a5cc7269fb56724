import type { HostThing, ThingKind } from "./model.ts";

const TOMBSTONE =
  "Nobody else needs it? Order its removal: hostler nodes slices remove NODE ALLOCATION --generation N --reason TEXT";
const SURE = "Only when it is certain that nothing uses it, by hand:";

/** What an operator does about a thing that this host may not remove by itself. Names are shown, never run. */
export function remedyFor(thing: HostThing): string {
  // What names its slice in full is in the list of slices, so that a signed tombstone can be ordered for it.
  const isListed = thing.slice !== null && thing.fault === null && LISTED.includes(thing.kind);
  return isListed ? TOMBSTONE : BY_HAND[thing.kind](thing.name);
}

const LISTED: readonly ThingKind[] = [
  "ledger row",
  "disk",
  "volume",
  "seed",
  "folder",
  "machine",
  "account",
  "interface",
  "mock object",
];

const BY_HAND: Readonly<Record<ThingKind, (name: string) => string>> = {
  journal: () => "Look at it in the agent's state folder, under journal/.",
  "ledger row": () => "Look at ledger.json in the agent's state folder.",
  address: () => `${SURE} stop the agent, take its line out of addresses.json, start the agent.`,
  disk: (name) => `${SURE} rm ${name}`,
  volume: (name) => `${SURE} lvremove ${name}`,
  seed: (name) => `${SURE} rm -r ${name}`,
  folder: (name) => `${SURE} rm -r ${name}`,
  "run folder": (name) => `${SURE} rm -r ${name}`,
  mount: (name) => `${SURE} umount ${name}`,
  machine: (name) => `${SURE} end ${name}.`,
  account: (name) => `${SURE} pkill -KILL -u ${name}; userdel ${name}`,
  "supervised name": (name) =>
    `${SURE} systemctl stop hostler-slice-${name}.service, or remove its file under processes/.`,
  interface: (name) => `${SURE} ip link del dev ${name}`,
  rules: (name) => `${SURE} nft delete table inet ${name} (and of other families that nft list tables shows)`,
  "mock object": (name) => `${SURE} rm -r ${name}`,
  gpu: (name) =>
    `See with lspci -k who drives ${name} and with fuser /dev/vfio/* who uses it; a restart of the host brings its driver back.`,
  "mig instance": (name) => `${SURE} nvidia-smi mig -dci and -dgi for ${name}`,
};
