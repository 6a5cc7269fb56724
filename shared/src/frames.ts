/**
 * Terminal frames: a 12-byte header (u8 type, u8 flags, u16 reserved, u64 offset, little-endian) and a body.
 * Offsets are absolute counts of bytes, so a duplicate or a lost acknowledgement heals itself. No JSON or base64
 * on the data path. Agent and browser speak the same frames; the relay forwards them as they are.
 */
export const TERMINAL_PROTOCOL = "hostler.terminal.v1";
/** A ticket travels as a WebSocket subprotocol with this prefix, never in a URL. */
export const TICKET_PROTOCOL_PREFIX = "hostler.ticket.";
export const FRAME_HEADER_BYTES = 12;
export const FRAME_BODY_BYTES_MAX = 64 * 1024;

export const FRAME_TYPES = {
  /** Program output; offset = first byte. Agent to browser. */
  output: 1,
  /** Typed input; offset = first byte. Browser to agent. */
  input: 2,
  /** Output up to offset was shown (parsed, not merely received). Browser to agent. */
  ack: 3,
  /** Input up to offset may be sent. Agent to browser. */
  grant: 4,
  /** Body: u16 cols, u16 rows. Browser to agent. */
  resize: 5,
  /** The program ended; offset = total output bytes; body: i32 exit code, u32 signal. Agent to browser. */
  exit: 6,
  /** Body: UTF-8 text for the person. Agent or relay to browser. */
  note: 7,
} as const;
export type FrameType = keyof typeof FRAME_TYPES;

export interface Frame {
  readonly type: FrameType;
  readonly offset: number;
  readonly body: Uint8Array;
}

/** Unacknowledged output after which the producer stops reading the program, in bytes. */
export const OUTPUT_WINDOW_BYTES = 256 * 1024;
/** Input that may be in flight before the agent has granted more, in bytes. */
export const INPUT_WINDOW_BYTES = 64 * 1024;

export const TERMINAL_SIZE_LIMITS = { cols: { min: 2, max: 1000 }, rows: { min: 1, max: 500 } } as const;

/** Why a terminal socket was closed; WebSocket close codes 4400–4499. */
export const TERMINAL_CLOSE = {
  finished: { code: 1000, reason: "finished" },
  protocolError: { code: 4400, reason: "protocol error" },
  unauthorized: { code: 4401, reason: "ticket not valid" },
  notFound: { code: 4404, reason: "no such terminal" },
  slow: { code: 4408, reason: "too slow" },
  takenOver: { code: 4409, reason: "taken over" },
  gone: { code: 4410, reason: "slice gone" },
  hostUnreachable: { code: 4503, reason: "host did not answer" },
} as const;

const EMPTY = new Uint8Array(0);
const TYPE_BY_BYTE = new Map<number, FrameType>(
  (Object.keys(FRAME_TYPES) as FrameType[]).map((type) => [FRAME_TYPES[type], type]),
);

/** The bytes of one frame. */
export function encodeFrame(type: FrameType, offset: number, body: Uint8Array = EMPTY): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(FRAME_HEADER_BYTES + body.length);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, FRAME_TYPES[type]);
  view.setBigUint64(4, BigInt(offset), true);
  bytes.set(body, FRAME_HEADER_BYTES);
  return bytes;
}

/** Reads one frame; null when the bytes are not one (the socket is then closed with `protocolError`). The body is a view, not a copy. */
export function decodeFrame(bytes: Uint8Array): Frame | null {
  if (bytes.length < FRAME_HEADER_BYTES || bytes.length > FRAME_HEADER_BYTES + FRAME_BODY_BYTES_MAX) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const type = TYPE_BY_BYTE.get(view.getUint8(0));
  const offset = view.getBigUint64(4, true);
  if (type === undefined || offset > BigInt(Number.MAX_SAFE_INTEGER)) return null;
  return { type, offset: Number(offset), body: bytes.subarray(FRAME_HEADER_BYTES) };
}

/** The body of a resize frame; sizes are clamped to what every emulator bears. */
export function encodeSize(cols: number, rows: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint16(0, clamp(cols, TERMINAL_SIZE_LIMITS.cols), true);
  view.setUint16(2, clamp(rows, TERMINAL_SIZE_LIMITS.rows), true);
  return new Uint8Array(view.buffer);
}

export function decodeSize(body: Uint8Array): { readonly cols: number; readonly rows: number } | null {
  if (body.length !== 4) return null;
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  return {
    cols: clamp(view.getUint16(0, true), TERMINAL_SIZE_LIMITS.cols),
    rows: clamp(view.getUint16(2, true), TERMINAL_SIZE_LIMITS.rows),
  };
}

export function encodeExit(exitCode: number, signal: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(8));
  view.setInt32(0, exitCode, true);
  view.setUint32(4, signal, true);
  return new Uint8Array(view.buffer);
}

export function decodeExit(body: Uint8Array): { readonly exitCode: number; readonly signal: number } | null {
  if (body.length !== 8) return null;
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  return { exitCode: view.getInt32(0, true), signal: view.getUint32(4, true) };
}

function clamp(value: number, limits: { readonly min: number; readonly max: number }): number {
  return Math.min(limits.max, Math.max(limits.min, Math.trunc(value) || limits.min));
}
