/** A WebSocket whose other end is the test. */
import { deflateSync, inflateSync } from 'node:zlib';

const OPEN = 1;
const CLOSED = 3;

/** The opcodes that tests speak of. */
export const OP = {
  request: 0x01,
  response: 0x02,
  emitted: 0x03,
  event: 0x04,
  patch: 0x05,
  snapshot: 0x06,
  error: 0x09,
  crdtOp: 0x0a,
  crdtState: 0x0b,
  hello: 0x10,
  auth: 0x11,
  authed: 0x12,
  subscribe: 0x13,
  subscribed: 0x14,
  unsubscribe: 0x15,
  cancel: 0x16,
  ack: 0x17,
  presence: 0x1a,
  doc: 0x1b,
  client: 0x1c,
  batch: 0x1d,
  requestBinary: 0x20,
  responseBinary: 0x21,
  eventBinary: 0x23,
  entry: 0x30,
  call: 0x31,
  result: 0x32,
};

/** What a test's server does with each socket. */
export type Serve = (socket: FakeSocket) => void;

/** A frame, taken apart. */
export interface Frame {
  opcode: number;
  correlation: number;
  payload: any;
}

/** A frame that was read, and its payload's bytes. */
export interface Decoded extends Frame {
  raw: Uint8Array;
}

export class FakeSocket {
  static serve: Serve = () => {};
  static all: FakeSocket[] = [];

  binaryType = 'blob';
  readyState = 0;
  protocol = '';
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: ArrayBuffer | string }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  onerror: ((event: { message?: string }) => void) | null = null;
  /** What the client sent, and how it closed. */
  readonly sent: Uint8Array[] = [];
  closedWith?: { code?: number; reason?: string };
  /** Called with every frame the client sends. */
  onframe?: (frame: Frame) => void;

  constructor(
    readonly url: string,
    readonly protocols: string[] = [],
  ) {
    FakeSocket.all.push(this);
    queueMicrotask(() => FakeSocket.serve(this));
  }

  send(message: Uint8Array): void {
    if (this.readyState !== OPEN) throw new Error('not open');
    this.sent.push(message);
    queueMicrotask(() => this.onframe?.(decode(message)));
  }

  close(code?: number, reason?: string): void {
    this.closedWith = { code, reason };
    this.readyState = CLOSED;
  }

  // --- the server's end ---

  accept(protocol = ''): void {
    this.protocol = protocol;
    this.readyState = OPEN;
    this.onopen?.();
  }

  deliver(message: Uint8Array | string): void {
    this.onmessage?.({ data: typeof message === 'string' ? message : new Uint8Array(message).buffer });
  }

  frame(opcode: number, payload: unknown, correlation = 0): void {
    this.deliver(encode({ opcode, correlation, payload }));
  }

  drop(code = 1006, reason = ''): void {
    this.readyState = CLOSED;
    this.onclose?.({ code, reason });
  }

  frames(): Frame[] {
    return this.sent.map(decode);
  }
}

/** As a version 1 server does: JSON, compressed above 256 bytes. */
export function encode({ opcode, correlation, payload }: Frame): Uint8Array {
  const json = payload instanceof Uint8Array ? payload : new TextEncoder().encode(JSON.stringify(payload));
  const message = Buffer.alloc(9 + json.length);
  message.writeUInt8(opcode, 0);
  message.writeUInt32BE(correlation, 1);
  message.writeUInt32BE(json.length, 5);
  message.set(json, 9);
  return message.length > 256 ? deflateSync(message) : message;
}

/** The payload is parsed where it is JSON, else the bytes. */
export function decode(message: Uint8Array): Decoded {
  const bytes = Buffer.from(message[0] === 0x78 ? inflateSync(message) : message);
  const raw = new Uint8Array(bytes.subarray(9, 9 + bytes.readUInt32BE(5)));
  const opcode = bytes.readUInt8(0);
  const binary = opcode >= 0x20 || opcode === OP.ack || opcode === OP.doc || opcode === OP.batch;
  const payload = binary ? raw : JSON.parse(Buffer.from(raw).toString('utf8'));
  return { opcode, correlation: bytes.readUInt32BE(1), payload, raw };
}

export function hex(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text, 'hex'));
}

/** The binary payload of version 2: JSON beside raw bytes. */
export function binary(json: unknown, bytes: number[]): Uint8Array {
  const head = Buffer.from(JSON.stringify(json));
  const length = Buffer.alloc(4);
  length.writeUInt32BE(head.length);
  return new Uint8Array(Buffer.concat([length, head, Buffer.from(bytes)]));
}

/** HELLO of a server that takes everything. */
export const HELLO = {
  protocol: 2,
  connectionId: 'c1',
  userId: 'ann',
  epoch: 5,
  heartbeat: 15_000,
  limits: {
    maxPayload: 1_048_576,
    compressAbove: 256,
    maxSubscriptions: 100,
    maxPendingCalls: 100,
    maxEventName: 256,
  },
};

/** Until everything that is under way has arrived: timers fire in order, and the engine's, of 16 ms at most, are armed by then. */
export async function settled(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve));
  await new Promise((resolve) => setTimeout(resolve, 18));
  for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** The frames of a kind that the client has sent. */
export function sent(socket: FakeSocket, opcode: number): Frame[] {
  return socket.frames().filter((frame) => frame.opcode === opcode);
}
