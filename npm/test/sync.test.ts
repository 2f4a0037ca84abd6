// The transcripts (tests/vectors/sync), replayed by the wasm through the worker's messages; and that
// those messages have the members that protocol.ts says.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import type { CoreOptions } from '../generated/datasole_wasm.js';
import { createGlue } from '../generated/glue.js';
import { perform } from '../src/session.js';
import { unpack, type CoreInput, type FromWorker, type StreamMessage } from '../src/protocol.js';
import { binary, decode, encode, HELLO, hex, OP } from './fake-socket.js';

const root = new URL('../../../', import.meta.url);
const wasm = new WebAssembly.Module(readFileSync(new URL('../datasole_wasm_bg.wasm', import.meta.url)));
const OPCODES: Record<string, number> = {
  RPC_REQ: 0x01,
  RPC_RES: 0x02,
  EVENT_C2S: 0x03,
  EVENT_S2C: 0x04,
  STATE_PATCH: 0x05,
  STATE_SNAPSHOT: 0x06,
  PING: 0x07,
  PONG: 0x08,
  ERROR: 0x09,
  CRDT_OP: 0x0a,
  CRDT_STATE: 0x0b,
  HELLO: 0x10,
  AUTH: 0x11,
  AUTHED: 0x12,
  SUBSCRIBE: 0x13,
  SUBSCRIBED: 0x14,
  UNSUBSCRIBE: 0x15,
  CANCEL: 0x16,
  ACK: 0x17,
  PRESENCE: 0x1a,
  DOC: 0x1b,
  CLIENT: 0x1c,
  BATCH: 0x1d,
  RPC_REQ_BIN: 0x20,
  RPC_RES_BIN: 0x21,
  EVENT_C2S_BIN: 0x22,
  EVENT_S2C_BIN: 0x23,
  ENTRY: 0x30,
  CALL: 0x31,
  RESULT: 0x32,
};
const text = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');
const plain = (value: unknown) => JSON.parse(JSON.stringify(value));

/** The clock of the wasm. */
let clock = 0;
const { performance } = globalThis;
before(() => Object.defineProperty(globalThis, 'performance', { value: { now: () => clock }, configurable: true }));
after(() => Object.defineProperty(globalThis, 'performance', { value: performance, configurable: true }));

/** Every message there has been, by kind, with its members. */
const seen = new Map<string, Set<string>>();

/** The wasm of one transcript, and what is at its other ends. */
class Player {
  readonly core;
  socket = 0;
  deadline = Infinity;
  out: unknown[] = [];
  parts: (string | Uint8Array)[] = [];

  static async start(options: Partial<CoreOptions>): Promise<Player> {
    const glue = createGlue();
    await glue.init(wasm);
    return new Player(glue, options);
  }

  private constructor(glue: ReturnType<typeof createGlue>, options: Partial<CoreOptions>) {
    clock = 0;
    this.core = new glue.Core({ url: 'ws://localhost/__ds', reconnectInterval: 0, ...options }, {
      open: (socket) => (this.socket = socket),
      send: (_, message) => this.out.push(frame(message.slice())),
      shut: (_, close) => this.out.push({ close }),
      arm: (delay) => (this.deadline = delay < 0 ? Infinity : clock + delay),
      text: (text) => this.parts.push(text),
      bytes: (bytes) => this.parts.push(bytes.slice()),
      soon: () => {},
      panicked: (message) => assert.fail(message),
    });
    perform(this.core, { t: 'connect' });
    this.take();
  }

  /** What it said since the last time. */
  take(): { messages: FromWorker[]; bytes: Uint8Array[] } {
    this.core.take();
    const [batch = '[]', ...bytes] = this.parts.splice(0);
    const messages = unpack(Buffer.from(batch as string).toString());
    for (const { t, ...members } of messages) {
      const names = seen.get(t) ?? new Set();
      seen.set(t, names);
      for (const name of Object.keys(members)) names.add(name);
    }
    return { messages, bytes: bytes as Uint8Array[] };
  }

  /** Time passes to the step's, then the step is taken: what is sent and told. */
  step({ at, ...step }: any): object {
    while (this.deadline <= at) {
      clock = Math.max(clock, this.deadline);
      this.deadline = Infinity;
      this.core.timeout();
    }
    clock = at;
    if (step.do) perform(this.core, command(step.do));
    if (step.open) {
      const { protocol, connectionId = 'c', features } = step.open;
      this.core.opened(this.socket, `datasole.v${protocol}`);
      const heartbeat = 86_400_000;
      if (protocol === 2) this.deliver({ op: 'HELLO', payload: { ...HELLO, connectionId, heartbeat, features } });
    }
    if (step.in) this.deliver(step.in);
    if (step.close) this.core.closed(this.socket, step.close.code, step.close.reason ?? '', false);
    const out = this.out.splice(0);
    const { messages, bytes } = this.take();
    const events = messages.flatMap((message) => told(message, bytes));
    return plain({ out: out.length ? out : undefined, events: events.length ? events : undefined });
  }

  deliver(written: any): void {
    this.core.message(this.socket, message(written));
  }
}

/** A frame of the server, as transcripts write it. */
function message({ op, id = 0, payload, hex: bytes, items }: any): Uint8Array {
  const opcode = OPCODES[op]!;
  if (items) payload = Buffer.concat(items.map(message).flatMap((item: Uint8Array) => [varuint(item.length), item]));
  else if (bytes !== undefined) payload = payload === undefined ? hex(bytes) : binary(payload, [...hex(bytes)]);
  return encode({ opcode, correlation: id, payload });
}

function varuint(number: number): Uint8Array {
  const bytes = [];
  for (; number >= 128; number = Math.floor(number / 128)) bytes.push((number % 128) + 128);
  return Uint8Array.from([...bytes, number]);
}

/** A frame that was sent, as transcripts write it. */
function frame(message: Uint8Array): object {
  const { opcode, correlation: id, raw, payload } = decode(message);
  const op = Object.keys(OPCODES).find((name) => OPCODES[name] === opcode);
  if (opcode >= OPCODES.ENTRY!) return { op, id, hex: text(raw) };
  if (opcode >= OP.requestBinary) {
    const head = 4 + Buffer.from(raw).readUInt32BE();
    return { op, id, payload: JSON.parse(Buffer.from(raw.subarray(4, head)).toString()), hex: text(raw.subarray(head)) };
  }
  if (op !== 'BATCH') return payload instanceof Uint8Array ? { op, id, hex: text(payload) } : { op, id, payload };
  const items: object[] = [];
  for (let at = 0; at < raw.length; ) {
    let length = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = raw[at++]!;
      length += (byte % 128) * scale;
      if (byte < 128) break;
    }
    items.push(frame(raw.subarray(at, (at += length))));
  }
  return { op, id, items };
}

/** What transcripts write as `json` and `hex` is text and bytes here. */
function command({ json, hex: bytes, ...rest }: any): CoreInput {
  const kind = rest.kind ?? (rest.t === 'show' ? 'presence' : 'doc');
  const encoded = { json: json === undefined ? undefined : JSON.stringify(json), bytes: bytes === undefined ? undefined : hex(bytes) };
  return { kind, ...rest, ...encoded };
}

/** A message as transcripts write it: nothing that only the page needs, bytes in place of indices. */
function told(message: FromWorker, bytes: Uint8Array[]): object[] {
  if (message.t === 'status' || message.t === 'token') return [];
  const { rev: _, bin, bins, error, ...rest } = message as StreamMessage & { rev?: number; bin?: number; bins?: number[]; error?: any };
  const digits = bins ? bins.map((bin) => text(bytes[bin]!)) : bin === undefined ? undefined : text(bytes[bin]!);
  return [{ ...rest, hex: digits, error: error && { ...error, name: undefined, retryable: undefined } }];
}

/** What the core refuses the host, the worker tells as any other refusal. */
function expected({ out, events, do: done }: any): object {
  const each = (event: any): object[] => {
    if (event.t !== 'refused' || event.what) return [event];
    const { error } = event;
    const { key, id, kind = 'presence' } = done;
    const rejected = { t: 'rejected', kind, key, error };
    return done.t === 'edit' ? [rejected, { t: 'settled', kind, key, id, error }] : [rejected];
  };
  return { ...(out && { out }), ...(events && { events: events.flatMap(each) }) };
}

const folder = new URL('tests/vectors/sync/', root);
const files = readdirSync(folder).filter((name) => name.endsWith('.json'));

for (const file of files) {
  describe(`tests/vectors/sync/${file}`, () => {
    for (const { name, config, steps } of JSON.parse(readFileSync(new URL(file, folder), 'utf8'))) {
      it(name, async () => {
        const player = await Player.start(config);
        for (const [number, step] of steps.entries()) {
          assert.deepEqual(player.step(step), expected(step), `step ${number}: ${JSON.stringify(step)}`);
        }
      });
    }
  });
}

describe('tests/vectors/v2-frames.json', () => {
  const { frames, malformed } = JSON.parse(readFileSync(new URL('tests/vectors/v2-frames.json', root), 'utf8'));
  const greeted = async () => {
    const player = await Player.start({});
    player.step({ at: 0, open: { protocol: 2 } });
    return player;
  };
  for (const { name, from, op, wire, ...rest } of frames) {
    it(`${from}: ${name}`, async () => {
      const written = { op, ...rest };
      for (const member of ['opcode', 'channel', 'seq', 'message']) delete written[member];
      assert.deepEqual(frame(hex(wire)), written);
      assert.deepEqual(frame(message(written)), written);
      if (from === 'client' || op === 'HELLO') return;
      const player = await greeted();
      player.core.message(player.socket, hex(wire));
      assert.ok(!player.out.some((sent: any) => sent.close));
    });
  }
  for (const { name, wire, client } of malformed) {
    if (client === undefined) continue;
    it(`malformed: ${name}`, async () => {
      const player = await greeted();
      player.core.message(player.socket, hex(wire));
      assert.deepEqual(player.out, client ? [{ close: client }] : []);
    });
  }
});

/** The wasm's messages: all their members, but `t` and those of a shared worker (`old`). Does not compile when protocol.ts has others. */
type Members = {
  [T in Exclude<FromWorker['t'], 'here' | 'ready' | 'fatal'>]: Record<Exclude<keyof Extract<FromWorker, { t: T }>, 't' | 'old'>, true>;
};
const MEMBERS: Members = {
  status: {
    state: true,
    protocol: true,
    connectionId: true,
    userId: true,
    serverTime: true,
    contract: true,
    attempt: true,
    retryInMs: true,
    reason: true,
  },
  done: { id: true, value: true, bin: true, error: true },
  event: { event: true, data: true, bin: true, timestamp: true },
  left: { kind: true, key: true },
  subscribed: { kind: true, key: true, recovered: true },
  refused: { what: true, name: true, error: true },
  snapshot: { key: true, rev: true, value: true },
  patch: { key: true, rev: true, ops: true },
  entry: { kind: true, key: true, rev: true, data: true, bin: true, whole: true },
  settled: { kind: true, key: true, id: true, returns: true, error: true },
  progress: { kind: true, key: true, phase: true, pending: true, stored: true, error: true },
  rejected: { kind: true, key: true, error: true, data: true },
  ask: { key: true, what: true, bins: true },
  awareness: { key: true, bin: true },
  token: {},
};

it('messages have the members that are declared, and every member comes', async () => {
  const player = await Player.start({ askToken: true, contract: 'ours' });
  const { core } = player;
  core.call(1, 'early', undefined, undefined, undefined, false);
  core.token('t');
  core.opened(player.socket, 'datasole.v2');
  const frame = (opcode: number, correlation: number, payload: unknown) =>
    core.message(player.socket, encode({ opcode, correlation, payload }));
  frame(OP.hello, 0, { ...HELLO, time: 1, contract: 'ours' });
  core.call(2, 'json', undefined, undefined, undefined, false);
  core.call(3, 'bytes', undefined, undefined, undefined, false);
  core.follow(1, 'state', 'k');
  core.follow(2, 'event', 'forbidden');
  frame(OP.response, 1, { error: { code: 1, message: 'no' } });
  frame(OP.response, 2, { result: 1 });
  frame(OP.responseBinary, 3, binary({}, [1]));
  frame(OP.error, 5, { code: -32002, message: 'no' });
  frame(OP.subscribed, 4, { epoch: 1, seq: 1, recovered: false });
  frame(OP.snapshot, 0, { key: 'k', version: 1, data: 1, epoch: 1, seq: 1 });
  frame(OP.patch, 0, { key: 'k', patches: [], epoch: 1, seq: 2 });
  frame(OP.event, 0, { event: 'e', data: 1, timestamp: 1 });
  frame(OP.eventBinary, 0, binary({ event: 'e', timestamp: 1 }, [1]));
  core.unfollow(1, 0);
  core.closed(player.socket, 1006, '', false);
  player.take();
  const found = [...seen].map(([t, members]) => [t, [...members].sort()]);
  const declared = Object.entries(MEMBERS).map(([t, members]) => [t, Object.keys(members).sort()]);
  assert.deepEqual(found.sort(), declared.sort());
});
