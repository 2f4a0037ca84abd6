/** Takes out of a session what is nobody's business: tokens, and payloads. */
import type { SessionOptions } from '../devtools.js';

/** The opcodes of the frames that have payloads, see docs/protocol.md. */
const OP = { response: 0x02, event: 0x04, patch: 0x05, snapshot: 0x06, crdtOp: 0x0a, crdtState: 0x0b, presence: 0x1a, doc: 0x1b, batch: 0x1d };
/** Opcodes from here on have raw bytes behind their JSON. */
const BINARY = 0x20;
const HEADER = 9;
const REDACTED = 'redacted';

/** The session with tokens and payloads replaced, as far as the options want it. */
export async function redact(text: string, { tokens = true, payloads = false }: SessionOptions = {}): Promise<string> {
  const [head, ...lines] = text.split('\n').filter(Boolean).map((line) => JSON.parse(line));
  head.redacted = [tokens && 'tokens', payloads && 'payloads'].filter(Boolean);
  if (tokens && head.options.token) head.options.token = REDACTED;
  for (const { in: input } of lines) {
    if (tokens) withoutTokens(input);
    if (payloads) await withoutPayload(input);
  }
  return [head, ...lines].map((line) => `${JSON.stringify(line)}\n`).join('');
}

function withoutTokens(input: any): void {
  if (input.t === 'token' && input.token) input.token = REDACTED;
  if (input.t !== 'edit' || !input.json) return;
  // What shows a server that a replica is this client's.
  const operation = JSON.parse(input.json);
  if (operation?.secret) input.json = JSON.stringify({ ...operation, secret: REDACTED });
}

async function withoutPayload(input: any): Promise<void> {
  if (input.t === 'message') input.bytes = encode(await frame(decode(input.bytes)));
  else if (input.bytes) input.bytes = encode(decode(input.bytes).fill(0));
  if (input.json) input.json = JSON.stringify(input.t === 'edit' ? operation(JSON.parse(input.json)) : mask(JSON.parse(input.json)));
}

/** A message of the server with its payload replaced, uncompressed. */
async function frame(message: Uint8Array): Promise<Uint8Array> {
  const bytes = message[0] === 0x78 ? await inflate(message) : message;
  const opcode = bytes[0]!;
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  if (bytes.length < HEADER) return bytes;
  const payload = bytes.slice(HEADER, HEADER + view.getUint32(5));
  const head = bytes.slice(0, HEADER);
  if (opcode === OP.batch) return join(head, await items(payload));
  if (opcode === OP.doc) return join(head, documentMessage(payload));
  if (opcode >= BINARY) {
    const json = new DataView(payload.buffer).getUint32(0);
    return join(head, payload.fill(0, 4 + json));
  }
  if (![OP.response, OP.event, OP.patch, OP.snapshot, OP.crdtOp, OP.crdtState, OP.presence].includes(opcode)) return bytes;
  const json = JSON.parse(new TextDecoder().decode(payload));
  for (const name of ['result', 'data', 'value']) if (name in json) json[name] = mask(json[name]);
  if (json.error?.data !== undefined) json.error.data = mask(json.error.data);
  for (const part of [...(json.patches ?? []), ...(json.members ?? [])]) if ('value' in part) part.value = mask(part.value);
  if (json.op) json.op = operation(json.op);
  // The core reads which operations a state has seen.
  if (json.state) json.state = { type: json.state.type, metadata: { ...mask(json.state.metadata), seen: json.state.metadata?.seen } };
  return join(head, new TextEncoder().encode(JSON.stringify(json)));
}

async function items(payload: Uint8Array): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for (let at = 0; at < payload.length; ) {
    const [length, from] = varuint(payload, at);
    const item = await frame(payload.slice(from, from + length));
    parts.push(toVaruint(item.length), item);
    at = from + length;
  }
  return concat(parts);
}

/** A document's message: channel, kind and, of synchronisation, step stay. */
function documentMessage(payload: Uint8Array): Uint8Array {
  const [, kindAt] = varuint(payload, 0);
  const [kind, stepAt] = varuint(payload, kindAt);
  const [, from] = varuint(payload, kind === 0 ? varuint(payload, stepAt)[1] : stepAt);
  return payload.fill(0, from);
}

function operation(operation: any): any {
  return operation && 'value' in operation ? { ...operation, value: typeof operation.value === 'number' ? operation.value : mask(operation.value) } : operation;
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
    if (byte < 128) break;
  }
  return [value, at];
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
