/**
 * Every state machine of the product as a table: from each state, the states it may move to. Stores check a change
 * against these tables and screens show what is allowed; nobody writes a transition by hand.
 */
export const ALLOCATION_TRANSITIONS = {
  /** Accepted, slots owned, task written. */
  requested: ["provisioning", "releasing", "failed"],
  /** A node holds the task. */
  provisioning: ["active", "releasing", "failed"],
  /** The slice runs. */
  active: ["releasing"],
  /** Cancelled or given back: the host is taking it down. */
  releasing: ["released", "release_failed"],
  /** The host could not prove that it is clean: its slots stay quarantined until an operator acts. */
  release_failed: ["releasing"],
  /** Final. Owns nothing. */
  released: [],
  /** Final. Provisioning failed and was undone. Owns nothing. */
  failed: [],
} as const satisfies Record<string, readonly string[]>;
export type AllocationState = keyof typeof ALLOCATION_TRANSITIONS;
export const ALLOCATION_STATES = Object.keys(ALLOCATION_TRANSITIONS) as readonly AllocationState[];

export const OPERATION_TRANSITIONS = {
  pending: ["running", "retrying", "succeeded", "failed", "cancelled"],
  running: ["retrying", "succeeded", "failed", "cancelled"],
  /** Its task lost the lease or failed in a way that may pass; it is handed out again. */
  retrying: ["running", "succeeded", "failed", "cancelled"],
  succeeded: [],
  failed: [],
  cancelled: [],
} as const satisfies Record<string, readonly string[]>;
export type OperationState = keyof typeof OPERATION_TRANSITIONS;
export const OPERATION_STATES = Object.keys(OPERATION_TRANSITIONS) as readonly OperationState[];

/** A piece of the control plane's own work. Its operation is what people see. */
export const JOB_TRANSITIONS = {
  /** Waits for its time and for a replica. */
  ready: ["running", "cancelled"],
  /** Held by a replica until `lease_until` under a fence. */
  running: ["ready", "succeeded", "failed", "dead", "cancelled"],
  succeeded: [],
  /** Cannot work, or was tried too often. */
  failed: [],
  /** Lost its worker in one step again and again. */
  dead: [],
  cancelled: [],
} as const satisfies Record<string, readonly string[]>;
export type JobState = keyof typeof JOB_TRANSITIONS;
export const JOB_STATES = Object.keys(JOB_TRANSITIONS) as readonly JobState[];

export const NODE_TRANSITIONS = {
  /** Enrolled, inventory not seen yet: nothing is placed on it. */
  enrolled: ["ready", "quarantined", "retired", "frozen", "revoked"],
  ready: ["cordoned", "draining", "down", "quarantined", "frozen", "revoked"],
  /** Keeps what it has, gets nothing new. */
  cordoned: ["ready", "draining", "down", "quarantined", "retired", "frozen", "revoked"],
  /** Gets nothing new and is being emptied; cordoned once it is empty. */
  draining: ["cordoned", "ready", "down", "quarantined", "frozen", "revoked"],
  /** Silent for too long. Gets nothing new; what runs on it is left alone. Heard again, it is what it was before. */
  down: ["ready", "cordoned", "draining", "quarantined", "retired", "frozen", "revoked"],
  /** Suspected of a fault of its own, by a failed task or an operator. An operator lets it out, to cordoned. */
  quarantined: ["cordoned", "retired", "frozen", "revoked"],
  /** Two holders of its identity were seen, or an operator said so: both are refused. What runs on the host runs on. */
  frozen: ["cordoned", "retired", "revoked"],
  /** Final: its certificates are refused. */
  revoked: [],
  /** Final: it was empty and left the fleet; its certificates are refused. */
  retired: [],
} as const satisfies Record<string, readonly string[]>;
export type NodeState = keyof typeof NODE_TRANSITIONS;
export const NODE_STATES = Object.keys(NODE_TRANSITIONS) as readonly NodeState[];

/** Whether a drain waits for tenants to give their slices back, or gives them back itself after a notice. */
export const DRAIN_POLICIES = ["wait", "stop"] as const;
export type DrainPolicy = (typeof DRAIN_POLICIES)[number];

/** `divided`: a card that is handed out in parts, never whole; each part that is somebody's is a slot of its own. */
export const SLOT_STATES = ["available", "owned", "quarantined", "divided"] as const;
export type SlotState = (typeof SLOT_STATES)[number];

/** What a failure means for who may try again, and where. */
export const FAILURE_CLASSES = {
  transient: "May pass: retried in the same phase, then by another attempt.",
  capacity: "The host has no room after all: undone, placed on another host.",
  permanent: "This request cannot work on this host: undone and reported.",
  device: "A GPU is at fault: undone, the slot is quarantined, the slice placed on another host.",
  host: "The host is at fault: undone as far as possible, the node is quarantined, the slice placed on another host.",
} as const;
export type FailureClass = keyof typeof FAILURE_CLASSES;
export const FAILURE_CLASS_NAMES = Object.keys(FAILURE_CLASSES) as readonly FailureClass[];

/** Whether the table allows the move. */
export function canMove<State extends string>(
  table: Readonly<Record<State, readonly string[]>>,
  source: State,
  target: State,
): boolean {
  return table[source].includes(target);
}

/** The states that have no way out. */
export function isFinal<State extends string>(
  table: Readonly<Record<State, readonly string[]>>,
  state: State,
): boolean {
  return table[state].length === 0;
}

/** The states from which the table allows a move to `target`; stores put them into their `where`. */
export function sourcesOf<State extends string>(
  table: Readonly<Record<State, readonly string[]>>,
  target: State,
): State[] {
  return (Object.keys(table) as State[]).filter((source) => table[source].includes(target));
}
