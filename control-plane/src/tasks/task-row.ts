/** The shapes in which tasks are handed to other features; their SQL stays in `store.ts`. */
export type { TaskRow, StoredPhaseEvent } from "./store.ts";
