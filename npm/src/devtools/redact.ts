/** Takes out of a session what is nobody's business: tokens, and payloads. */
import type { SessionOptions } from '../devtools.js';

/** The opcodes of the frames that have payloads, see docs/protocol.md. */
const OP = {
  response: 0x02,
  event: 0x04,
  patch: 0x05,
  snapshot: 0x06,
  crdtOp: 0x0a,
  crdtState: 0x0b,
  presence: 0x1a,
  doc: 0x1b,
  batch: 0x1d,
  entry: 0x30,
  call: 0x31,
  result: 0x32,
};
const OBJECTS = [OP.response, OP.event, OP.patch, OP.snapshot, OP.crdtOp, OP.crdtState, OP.presence];
/** PONG, ERROR, and HELLO to ACK: of the connection, not of the application. */
const control = (opcode: number) => opcode === 0x08 || opcode === 0x09 || (opcode >= 0x10 && opcode <= 0x17);
/** Opcodes of frames with raw bytes behind their JSON. */
const binary = (opcode: number) => opcode >= 0x20 && opcode <= 0x23;
const HEADER = 9;
/** The first byte of a compressed message. */
const ZLIB_MARK = 0x78;
/** A byte of which many are nothing: no number that ends, no UTF-8, no zlib. */
const UNREADABLE = 0x80;
/** CRDTs whose numbers are their structure: a core takes no count that goes back. */
const COUNTERS = ['g-counter', 'pn-counter'];
const REDACTED = 'redacted';

/** The session with tokens and payloads replaced, as far as the options want it. */
export async function redact(text: string, { tokens = true, payloads = false }: SessionOptions = {}): Promise<string> {
  const [head, ...lines] = text.split('\n').filter(Boolean).map((line) => JSON.parse(line));
  head.redacted = [tokens && 'tokens', payloads && 'payloads'].filter(Boolean);
  if (tokens && head.options.token) head.options.token = REDACTED;
  let unreadable = 0;
  for (const { in: input } of lines) {
    if (tokens) withoutTokens(input);
    if (payloads) await withoutPayload(input, () => unreadable++);
  }
  head.unreadable = unreadable || undefined;
  return [head, ...lines].map((line) => `${JSON.stringify(line)}\n`).join('');
}

function withoutTokens(input: any): void {
  if (input.t === 'token' && input.token) input.token = REDACTED;
  if (input.t !== 'edit' || !input.json) return;
  // What shows a server that a replica is this client's.
  const operation = JSON.parse(input.json);
  if (operation?.secret) input.json = JSON.stringify({ ...operation, secret: REDACTED });
}

async function withoutPayload(input: any, unreadable: () => void): Promise<void> {
  if (input.t === 'message') input.bytes = encode(await frame(decode(input.bytes), unreadable));
  else if (input.bytes) input.bytes = encode(decode(input.bytes).fill(0));
  if (input.json) input.json = JSON.stringify(input.t === 'edit' ? operation(JSON.parse(input.json)) : mask(JSON.parse(input.json)));
}

/** A message of the server with its payload replaced, uncompressed. One that nobody can read is as long as before, and as unreadable. */
async function frame(message: Uint8Array, unreadable: () => void): Promise<Uint8Array> {
  let bytes = message;
  // Of what is broken zlib the mark stays.
  let kept = 1;
  try {
    if (message[0] === ZLIB_MARK) bytes = await inflate(message);
    kept = HEADER;
    const declared = new DataView(bytes.buffer, bytes.byteOffset).getUint32(5);
    if (bytes.length < HEADER + declared) throw new RangeError('the payload is cut off');
    const payload = await withoutContent(bytes[0]!, bytes.slice(HEADER, HEADER + declared), unreadable);
    return join(bytes.slice(0, HEADER), payload);
  } catch {
    unreadable();
    return bytes.slice().fill(UNREADABLE, kept);
  }
}

/** The payload of a frame without what is the application's. Throws where it is not what the opcode says. */
async function withoutContent(opcode: number, payload: Uint8Array, unreadable: () => void): Promise<Uint8Array> {
  if (control(opcode)) return payload;
  if (opcode === OP.batch) return items(payload, unreadable);
  if (opcode === OP.doc) return documentMessage(payload);
  if (opcode === OP.entry) return entry(payload);
  if (opcode === OP.call) return call(payload);
  if (opcode === OP.result) return masked(payload);
  if (binary(opcode)) {
    const end = 4 + new DataView(payload.buffer).getUint32(0);
    if (end > payload.length) throw new RangeError('the JSON is cut off');
    parsed(payload.subarray(4, end));
    return payload.fill(0, end);
  }
  if (!OBJECTS.includes(opcode)) return payload.fill(0);
  const json = parsed(payload);
  if (!json || typeof json !== 'object' || Array.isArray(json)) throw new TypeError('no object');
  for (const name of ['result', 'data', 'value']) if (name in json) json[name] = mask(json[name]);
  if (json.error?.data !== undefined) json.error.data = mask(json.error.data);
  for (const part of [...(json.patches ?? []), ...(json.members ?? [])]) if ('value' in part) part.value = mask(part.value);
  if (json.op) json.op = operation(json.op);
  // The core reads which operations a state has seen.
  if (json.state) json.state = { type: json.state.type, metadata: { ...mask(json.state.metadata), seen: json.state.metadata?.seen } };
  return written(json);
}

async function items(payload: Uint8Array, unreadable: () => void): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for (let at = 0; at < payload.length; ) {
    const [length, from] = varuint(payload, at);
    at = from + length;
    if (at > payload.length) throw new RangeError('an item is cut off');
    const item = await frame(payload.slice(from, at), unreadable);
    parts.push(toVaruint(item.length), item);
  }
  return concat(parts);
}

/** The short form of a patch or an event: the entry's number stays, and the time of an event. */
function entry(payload: Uint8Array): Uint8Array {
  const [, from] = varuint(payload, 0);
  // The frame does not say of which kind its stream is. A time and JSON after it are never JSON together.
  const operations = list(payload.subarray(from));
  if (operations) {
    for (const part of operations) if ('value' in part) part.value = mask(part.value);
    return concat([payload.subarray(0, from), written(operations)]);
  }
  const [, dataAt] = varuint(payload, from);
  return concat([payload.subarray(0, dataAt), masked(payload.subarray(dataAt))]);
}

/** The short form of a call, whose method stays. */
function call(payload: Uint8Array): Uint8Array {
  const [length, from] = varuint(payload, 0);
  const end = from + length;
  if (end > payload.length) throw new RangeError('the name is cut off');
  return concat([payload.subarray(0, end), masked(payload.subarray(end))]);
}

/** An array in JSON. */
function list(bytes: Uint8Array): any[] | undefined {
  if (bytes[0] !== 0x5b) return undefined;
  try {
    return parsed(bytes);
  } catch {
    return undefined;
  }
}

function parsed(bytes: Uint8Array): any {
  return JSON.parse(new TextDecoder().decode(bytes));
}

function written(value: unknown): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(value));
}

/** JSON, or nothing, with its value replaced. */
function masked(bytes: Uint8Array): Uint8Array {
  return bytes.length ? written(mask(parsed(bytes))) : bytes;
}

/** A document's message: channel, kind and, of synchronisation, step stay. */
function documentMessage(payload: Uint8Array): Uint8Array {
  const [, kindAt] = varuint(payload, 0);
  const [kind, stepAt] = varuint(payload, kindAt);
  const [, from] = varuint(payload, kind === 0 ? varuint(payload, stepAt)[1] : stepAt);
  return payload.fill(0, from);
}

/** An operation of a CRDT; the amounts of counters stay. */
function operation(operation: any): any {
  if (!operation || !('value' in operation)) return operation;
  const kept = COUNTERS.includes(operation.type) && typeof operation.value === 'number';
  return kept ? operation : { ...operation, value: mask(operation.value) };
}

/** A value of the same shape and length that says nothing: members keep their names. */
export function mask(value: any): any {
  if (typeof value === 'string') return 'x'.repeat(value.length);
  if (typeof value === 'number') return 0;
  if (typeof value === 'boolean') return false;
  if (Array.isArray(value)) return value.map(mask);
  return value && Object.fromEntries(Object.entries(value).map(([name, part]) => [name, mask(part)]));
}

function join(head: Uint8Array, payload: Uint8Array): Uint8Array {
  new DataView(head.buffer).setUint32(5, payload.length);
  return concat([head, payload]);
}

function concat(parts: Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) all.set(part, at), (at += part.length);
  return all;
}

/** A LEB128 number, and where it ends. */
function varuint(bytes: Uint8Array, at: number): [value: number, end: number] {
  let value = 0;
  for (let factor = 1; at < bytes.length; factor *= 128) {
    const byte = bytes[at++]!;
    value += (byte & 127) * factor;
    if (byte < 128) return [value, at];
  }
  throw new RangeError('a number is cut off');
}

function toVaruint(value: number): Uint8Array {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value & 127) | 128);
  return Uint8Array.from([...bytes, value]);
}

async function inflate(bytes: Uint8Array): Promise<Uint8Array> {
  const stream = new Blob([bytes as BlobPart]).stream().pipeThrough(new DecompressionStream('deflate'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

export function decode(text: string): Uint8Array {
  return Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
}

function encode(bytes: Uint8Array): string {
  let text = '';
  for (let at = 0; at < bytes.length; at += 8_192) text += String.fromCharCode(...bytes.subarray(at, at + 8_192));
  return btoa(text);
}
