/** The shapes in which tasks are handed to other features; their SQL stays in the stores. */
export type { TaskRow } from "./store.ts";
export type { StoredPhaseEvent } from "./history-store.ts";
