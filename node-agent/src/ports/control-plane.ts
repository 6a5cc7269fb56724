import type {
  Inventory,
  PollAnswer,
  PollRequest,
  SlicesReport,
  TelemetrySample,
} from "@hostler/shared/node-protocol.ts";
import type { PhaseEvent } from "@hostler/shared/tasks.ts";
import type { ImageSource } from "./image-source.ts";

/**
 * The control plane as the agent sees it. Every call goes out over the agent's mTLS identity; the adapter swaps the
 * identity under running calls when it is renewed. All reject with the AppError that the server's problem names, or with
 * `service_unavailable` when it cannot be reached.
 */
export interface ControlPlane extends ImageSource {
  /** Without an answer in `timeoutMs` it counts as unanswered. */
  poll(request: Ask, signal: AbortSignal, options?: { readonly timeoutMs: number }): Promise<PollAnswer>;
  sendInventory(inventory: Inventory, signal: AbortSignal): Promise<void>;
  sendSlices(report: SlicesReport, signal: AbortSignal): Promise<void>;
  sendTelemetry(samples: readonly TelemetrySample[], signal: AbortSignal): Promise<void>;
  sendProgress(request: {
    readonly taskId: string;
    readonly fence: string;
    readonly events: readonly PhaseEvent[];
    readonly signal: AbortSignal;
    /** After this long without an answer it counts as unanswered, and the next request takes another connection. */
    readonly timeoutMs?: number;
  }): Promise<{ readonly leaseTtlMs: number; readonly cancel: boolean }>;
  /**
   * Repeating it is safe: the same result twice is accepted once. Rejects with `lease_stale` when another grant owns the task.
   * Results that come while others are on their way leave together.
   */
  sendResult(request: {
    readonly taskId: string;
    readonly resultJws: string;
    /** What the control plane was not told of the task before. */
    readonly events: readonly PhaseEvent[];
    readonly signal: AbortSignal;
  }): Promise<void>;
  /** Dials the socket of a terminal; resolves when it is open. */
  openTerminalSocket(request: {
    readonly terminalId: string;
    readonly ticket: string;
    readonly signal: AbortSignal;
  }): Promise<TerminalSocket>;
}

/** A poll; whom the agent trusts is added by the adapter, which holds the identity. */
export type Ask = Omit<PollRequest, "trustVersion">;

/** A WebSocket as the terminal relay needs it: binary frames both ways and a sight of what has not left yet. */
export interface TerminalSocket {
  send(frame: Uint8Array): void;
  onFrame(listener: (frame: Uint8Array) => void): void;
  /** Resolves when the socket is closed, by whomever. */
  readonly closed: Promise<{ readonly code: number; readonly reason: string }>;
  close(code: number, reason: string): void;
  /** Bytes given to `send` that have not left this process. */
  readonly bufferedBytes: number;
}
