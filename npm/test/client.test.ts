// The facade against a worker that is the test: loading, failing, replacing, and what handlers may do.
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { runInNewContext } from 'node:vm';
import { DatasoleClient, DatasoleError, type DatasoleClientOptions, type Status } from '../src/client.js';
import { PROTOCOL_VERSION, type FromWorker, type ToWorker } from '../src/protocol.js';

type Message<T extends ToWorker['t']> = Extract<ToWorker, { t: T }>;

class FakeWorker {
  static all: FakeWorker[] = [];
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onerror: ((event: { message?: string; preventDefault(): void }) => void) | null = null;
  onmessageerror: (() => void) | null = null;
  readonly received: ToWorker[] = [];
  /** How many messages came at a time. */
  readonly posts: number[] = [];
  terminated = false;

  constructor() {
    FakeWorker.all.push(this);
  }

  postMessage(messages: ToWorker[], transfer: ArrayBuffer[]): void {
    this.posts.push(messages.length);
    this.received.push(...structuredClone(messages, { transfer }));
  }

  terminate(): void {
    this.terminated = true;
  }

  // --- the worker's end ---

  say(...messages: FromWorker[]): void {
    this.onmessage?.({ data: JSON.stringify(messages) });
  }

  batch(data: unknown): void {
    this.onmessage?.({ data });
  }

  fail(message?: string): void {
    this.onerror?.({ message, preventDefault() {} });
  }

  of<T extends ToWorker['t']>(t: T): Message<T>[] {
    return this.received.filter((message): message is Message<T> => message.t === t);
  }
}

const CONNECTED: FromWorker = { t: 'status', state: 'connected', protocol: 2, connectionId: 'c1', userId: 'ann' };

const clients: DatasoleClient[] = [];
let reported: unknown[] = [];
const consoleError = console.error;

beforeEach(() => {
  FakeWorker.all = [];
  reported = [];
  // Where there is no reportError, as in Node.
  console.error = (error: unknown) => reported.push(error);
});

afterEach(async () => {
  // A client that is left goes on trying.
  for (const client of clients.splice(0)) await client.disconnect();
  console.error = consoleError;
});

function makeClient(options: Partial<DatasoleClientOptions> = {}): DatasoleClient {
  const worker = () => new FakeWorker() as unknown as Worker;
  // A path that is no file: the bytes are the worker's business here.
  const client = new DatasoleClient({ url: 'http://localhost:1', wasmUrl: '/none.wasm', worker, ...options });
  clients.push(client);
  return client;
}

/** Until everything that is under way has arrived. */
async function settled(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** Until something that takes a timer has happened. */
async function until(happened: () => boolean): Promise<void> {
  while (!happened()) await new Promise((resolve) => setTimeout(resolve, 1));
}

/** The nth worker, greeted and ready. */
async function ready(at = 0): Promise<FakeWorker> {
  await settled();
  const worker = FakeWorker.all[at]!;
  worker.say({ t: 'here', v: PROTOCOL_VERSION });
  while (!worker.of('init').length) await settled();
  worker.say({ t: 'ready', build: 'test' });
  await settled();
  return worker;
}

async function connected(options?: Partial<DatasoleClientOptions>) {
  const client = makeClient(options);
  const opened = client.connect();
  const worker = await ready();
  worker.say(CONNECTED);
  await opened;
  return { client, worker };
}

describe('starting', () => {
  it('nothing happens before connect', async () => {
    const client = makeClient();
    client.on('chat', () => {});
    client.subscribeState('k', () => {});
    assert.equal(client.getState('other'), undefined);
    assert.equal(client.getConnectionState(), 'disconnected');
    assert.throws(() => client.emit('chat', 1), { name: 'DatasoleError', code: -32103, message: 'not connected' });
    await assert.rejects(client.rpc('m'), { name: 'DatasoleError', code: -32103, retryable: true });
    await client.disconnect();
    await settled();
    assert.equal(FakeWorker.all.length, 0);
  });

  it('greets, configures, and follows what is followed, in this order', async () => {
    const client = makeClient({ path: 'ds/', auth: { token: 't', via: 'frame' }, maxReconnectAttempts: 3 });
    client.on('chat', () => {});
    client.subscribeState('k', () => {});
    const opened = client.connect();
    const worker = await ready();
    const { v, options } = worker.of('init')[0]!;
    const expected = {
      url: 'ws://localhost:1/ds',
      token: 't',
      tokenVia: 'frame',
      askToken: false,
      reconnect: undefined,
      reconnectInterval: undefined,
      maxReconnectAttempts: 3,
      connectTimeout: 10_000,
    };
    assert.deepEqual([v, options], [PROTOCOL_VERSION, expected]);
    assert.deepEqual(
      worker.received.map(({ t }) => t),
      ['init', 'subscribe', 'subscribe', 'connect'],
    );
    assert.deepEqual(worker.posts, [1, 3]);
    await Promise.all([assert.rejects(opened, { code: -32104 }), client.disconnect()]);
  });

  for (const [url, path, endpoint] of [
    ['http://a.example', undefined, 'ws://a.example/__ds'],
    ['https://a.example:8443/', '/__ds/', 'wss://a.example:8443/__ds'],
    ['ws://a.example/base/', 'x', 'ws://a.example/base/x'],
    ['wss://a.example/base?query#hash', undefined, 'wss://a.example/base/__ds'],
  ] as const) {
    it(`${url} with path ${path} is ${endpoint}`, async () => {
      const client = makeClient({ url, path, maxReconnectAttempts: 0 });
      const opened = client.connect();
      const worker = await ready();
      assert.equal(worker.of('init')[0]!.options.url, endpoint);
      const served = `${endpoint.replace(/^ws/, 'http')}/datasole-worker.v${PROTOCOL_VERSION}.js`;
      worker.fail();
      await assert.rejects(opened, { message: `the worker script ${served} could not be loaded` });
    });
  }

  it('connecting twice is one promise', async () => {
    const client = makeClient();
    const [first, second] = [client.connect(), client.connect()];
    assert.equal(first, second);
    const worker = await ready();
    worker.say(CONNECTED);
    await first;
    assert.equal(client.connect(), first);
    assert.equal(worker.of('connect').length, 1);
  });

  it('a script of another version is refused, naming both', async () => {
    const client = makeClient();
    const opened = client.connect();
    await settled();
    FakeWorker.all[0]!.say({ t: 'here', v: 99 });
    await assert.rejects(opened, { code: -32106, message: new RegExp(`${PROTOCOL_VERSION}.*99`) });
    await settled();
    assert.ok(FakeWorker.all[0]!.terminated);
  });

  for (const options of [{ reconnect: false }, { maxReconnectAttempts: 0 }]) {
    it(`a script that cannot be loaded rejects with ${JSON.stringify(options)}, and the next attempt starts anew`, async () => {
      const client = makeClient(options);
      const opened = client.connect();
      await settled();
      FakeWorker.all[0]!.fail();
      await assert.rejects(opened, { name: 'DatasoleError', code: -32106, message: /worker script http:.* could not be loaded/ });
      assert.equal(client.getConnectionState(), 'disconnected');
      const again = client.connect();
      (await ready(1)).say(CONNECTED);
      await again;
    });
  }

  it('a script that cannot be loaded is loaded again, and nothing that waits is lost', async () => {
    const client = makeClient({ reconnectInterval: 0, maxReconnectAttempts: 2 });
    const seen: Status[] = [];
    client.onStatus((status) => seen.push(status));
    client.on('chat', () => {});
    const opened = client.connect();
    const call = client.rpc('m');
    await settled();
    FakeWorker.all[0]!.fail();
    assert.ok(client.emit('early', 1));
    await until(() => FakeWorker.all.length === 2);
    assert.ok(FakeWorker.all[0]!.terminated);
    FakeWorker.all[1]!.say({ t: 'here', v: PROTOCOL_VERSION });
    FakeWorker.all[1]!.say({ t: 'fatal', message: 'the wasm at /none.wasm could not be loaded' });
    await until(() => FakeWorker.all.length === 3);
    const worker = await ready(2);
    const sent = ['init', 'subscribe', 'connect', 'call', 'emit'];
    assert.deepEqual([worker.received.map(({ t }) => t), worker.posts], [sent, [1, 4]]);
    worker.say(CONNECTED, { t: 'done', id: worker.of('call')[0]!.id, value: 1 });
    assert.deepEqual([await opened, await call], [undefined, 1]);
    const tries = seen.filter(({ state }) => state === 'reconnecting');
    assert.deepEqual([...new Set(tries.map(({ attempt }) => attempt))], [1, 2]);
    assert.deepEqual(tries.map(({ reason }) => reason!.kind), tries.map(() => 'host'));
    assert.match(tries.at(-1)!.reason!.message, /wasm/);
  });

  it('attempts to load end with maxReconnectAttempts, and with disconnect', async () => {
    const client = makeClient({ reconnectInterval: 0, maxReconnectAttempts: 1 });
    const opened = client.connect();
    await settled();
    FakeWorker.all[0]!.fail('one');
    await until(() => FakeWorker.all.length === 2);
    FakeWorker.all[1]!.fail('two');
    await assert.rejects(opened, { code: -32106, message: 'two' });
    const other = makeClient({ reconnectInterval: 20 });
    const never = other.connect();
    await settled();
    FakeWorker.all[2]!.fail();
    await Promise.all([assert.rejects(never, { code: -32104 }), other.disconnect()]);
    await new Promise((resolve) => setTimeout(resolve, 40));
    assert.equal(FakeWorker.all.length, 3);
  });

  it('a fatal error that is no failure to load is not tried again', async () => {
    const opened = makeClient().connect();
    await settled();
    FakeWorker.all[0]!.say({ t: 'here', v: PROTOCOL_VERSION });
    FakeWorker.all[0]!.say({ t: 'fatal', message: 'no WebSocket here' });
    await assert.rejects(opened, { code: -32106, message: 'no WebSocket here' });
  });

  it('calls that wait for the script end in time, or when they are cancelled', async () => {
    const client = makeClient();
    client.connect().catch(() => {});
    const abort = new AbortController();
    const cancelled = client.rpc('a', null, { signal: abort.signal });
    const late = client.rpc('b', null, { timeout: 10 });
    // Longer than a timer lasts.
    const long = client.rpc('c', null, { timeout: 2 ** 31 });
    const endless = client.rpc('d', null, { timeout: Infinity });
    abort.abort();
    await assert.rejects(cancelled, { code: -32102 });
    await assert.rejects(late, { code: -32100, retryable: true });
    const worker = await ready();
    const [a, b, c, d] = worker.of('call').map(({ id }) => id);
    assert.deepEqual(worker.of('cancel').map(({ id }) => id), [a, b]);
    worker.say(CONNECTED, { t: 'done', id: c!, value: 'c' }, { t: 'done', id: d!, value: 'd' });
    assert.deepEqual([await long, await endless], ['c', 'd']);
    await client.disconnect();
  });

  for (const [what, size, fits] of [
    ['messages', 0, 2_046],
    ['characters', 1_024 * 1_024, 4],
  ] as const) {
    it(`events that wait for the script are bounded in ${what}`, async () => {
      const client = makeClient();
      const opened = client.connect();
      // A string has quotes around it; `connect` waits, too.
      const data = 'x'.repeat(Math.max(size - 2, 0));
      for (let n = 0; n < fits; n++) assert.ok(client.emit('e', data));
      if (what === 'messages') assert.ok(client.emit('e', data));
      assert.throws(() => client.emit('e', data), { code: -32105, retryable: true });
      await assert.rejects(client.rpc('m'), { code: -32105 });
      const worker = await ready();
      worker.say(CONNECTED);
      await opened;
      assert.ok(client.emit('e', data));
      await settled();
      assert.equal(worker.of('emit').length, what === 'messages' ? fits + 2 : fits + 1);
    });
  }

  it('a worker that cannot be made rejects', async () => {
    const worker = () => {
      throw new Error('forbidden');
    };
    await assert.rejects(makeClient({ worker }).connect(), { code: -32106, message: 'forbidden' });
  });

  it('a script that says nothing rejects in time', async () => {
    const client = makeClient({ connectTimeout: 20 });
    await assert.rejects(client.connect(), { code: -32100, retryable: true });
    assert.equal(client.getConnectionState(), 'disconnected');
    await settled();
    assert.ok(FakeWorker.all[0]!.terminated);
  });

  it('disconnecting while loading rejects', async () => {
    const client = makeClient();
    const opened = client.connect();
    await Promise.all([assert.rejects(opened, { code: -32104 }), client.disconnect()]);
    await settled();
    assert.ok(FakeWorker.all[0]!.terminated);
  });
});

describe('messages', () => {
  it('made together leave together', async () => {
    const { client, worker } = await connected();
    worker.posts.length = 0;
    for (let n = 0; n < 10; n++) client.emit('e', n);
    await settled();
    assert.deepEqual(worker.posts, [10]);
    assert.deepEqual(
      worker.of('emit').map(({ json }) => json),
      [...Array(10).keys()].map(String),
    );
  });

  it('come as text, as bytes, and with bytes beside them', async () => {
    const { client, worker } = await connected();
    const seen: unknown[] = [];
    client.on('e', ({ data }) => seen.push(data));
    const text = JSON.stringify([{ t: 'event', event: 'e', data: 'ä', timestamp: 1 }]);
    worker.batch(text);
    worker.batch(new TextEncoder().encode(text));
    const withBin = JSON.stringify([{ t: 'event', event: 'e', bin: 1, timestamp: 1 }]);
    worker.batch([withBin, new Uint8Array([1]), new Uint8Array([2])]);
    assert.deepEqual(seen, ['ä', 'ä', new Uint8Array([2])]);
  });

  it('settle every call once, in any order', async () => {
    const { client, worker } = await connected();
    const calls = [client.rpc('a'), client.rpc('b'), client.rpc('c')];
    await settled();
    const ids = worker.of('call').map(({ id }) => id);
    assert.equal(new Set(ids).size, 3);
    const error = { code: 5, message: 'no', retryable: false, data: [1], retryAfter: 7 };
    worker.say({ t: 'done', id: ids[2]!, value: 'c' }, { t: 'done', id: ids[0]! }, { t: 'done', id: ids[1]!, error });
    worker.say({ t: 'done', id: ids[0]!, value: 'late' }, { t: 'done', id: 4_000, value: 'unknown' });
    assert.equal(await calls[0], undefined);
    await assert.rejects(calls[1]!, { name: 'DatasoleError', ...error });
    assert.equal(await calls[2], 'c');
  });

  it('what cannot be JSON is refused at the call', async () => {
    const { client, worker } = await connected();
    const circular: any = {};
    circular.self = circular;
    await assert.rejects(client.rpc('m', circular), TypeError);
    assert.throws(() => client.emit('e', 1n), TypeError);
    await settled();
    assert.deepEqual([worker.of('call').length, worker.of('emit').length], [0, 0]);
  });
});

describe('bytes', () => {
  /** A class as some polyfills of `Buffer` are: its slice is a view. */
  class Viewing extends Uint8Array {
    override slice(start?: number, end?: number): any {
      return this.subarray(start, end);
    }
  }
  const wide = Uint8Array.of(8, 1, 2, 3, 8);

  const forms: [string, ArrayBuffer | ArrayBufferView][] = [
    ['a Buffer', Buffer.from([1, 2, 3])],
    ['a subclass whose slice is a view', Viewing.of(1, 2, 3)],
    ['a DataView with an offset', new DataView(Uint8Array.from(wide).buffer, 1, 3)],
    ['an array of wider elements', new Uint16Array(Uint8Array.from([1, 2, 3, 4]).buffer)],
    ['an ArrayBuffer', Uint8Array.of(1, 2, 3).buffer],
    ['a SharedArrayBuffer', shared([1, 2, 3])],
    ['an array of another realm', runInNewContext('Uint8Array.of(1, 2, 3)')],
    ['an ArrayBuffer of another realm', runInNewContext('Uint8Array.of(1, 2, 3).buffer')],
    ['no bytes at all', new Uint8Array()],
  ];

  function shared(bytes: number[]): ArrayBuffer {
    const buffer = new SharedArrayBuffer(bytes.length);
    new Uint8Array(buffer).set(bytes);
    return buffer as unknown as ArrayBuffer;
  }

  /** The bytes of a buffer or view, as a view of its own. */
  const over = (bytes: ArrayBuffer | ArrayBufferView) =>
    ArrayBuffer.isView(bytes)
      ? new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      : new Uint8Array(bytes);

  for (const [what, given] of forms) {
    it(`of ${what} are those at the time of the call, and the caller keeps them`, async () => {
      const { client, worker } = await connected();
      const expected = [...over(given)];
      const call = client.rpc('echo', given);
      client.emit('e', given);
      over(given).fill(9);
      await settled();
      for (const message of [worker.of('call')[0]!, worker.of('emit')[0]!]) {
        assert.equal(message.json, undefined);
        assert.deepEqual([...message.bytes!], expected);
      }
      assert.deepEqual([...over(given)], expected.map(() => 9), 'the buffer was not transferred');
      worker.say({ t: 'done', id: worker.of('call')[0]!.id, value: null });
      await call;
    });
  }

  it('of a buffer that is filled again and again are different ones', async () => {
    const { client, worker } = await connected();
    const buffer = Buffer.alloc(1);
    for (let at = 0; at < 100; at++) client.emit('e', buffer.fill(at));
    await settled();
    assert.deepEqual(worker.of('emit').map(({ bytes }) => bytes![0]), [...Array(100).keys()]);
  });

  it('of a Blob are refused, saying what to do', async () => {
    const { client, worker } = await connected();
    for (const blob of [new Blob(['x']), new File(['x'], 'name')]) {
      const expected = { name: 'DatasoleError', code: -32602, message: /Blob.*arrayBuffer\(\)/ };
      await assert.rejects(client.rpc('m', blob), expected);
      assert.throws(() => client.emit('e', blob), expected);
    }
    await settled();
    assert.deepEqual([worker.of('call'), worker.of('emit')], [[], []]);
  });
});

describe('aborting', () => {
  it('rejects at once and tells the worker', async () => {
    const { client, worker } = await connected();
    const abort = new AbortController();
    const call = client.rpc('slow', null, { signal: abort.signal });
    abort.abort('enough');
    await assert.rejects(call, { name: 'DatasoleError', code: -32102, cause: 'enough', retryable: false });
    await settled();
    const { id } = worker.of('call')[0]!;
    assert.deepEqual(worker.of('cancel'), [{ t: 'cancel', id }]);
    worker.say({ t: 'done', id, value: 'late' });
  });

  it('before the call sends nothing, after its end changes nothing', async () => {
    const { client, worker } = await connected();
    await assert.rejects(client.rpc('m', null, { signal: AbortSignal.abort() }), { code: -32102 });
    const abort = new AbortController();
    const call = client.rpc('m', null, { signal: abort.signal });
    await settled();
    assert.equal(worker.of('call').length, 1);
    worker.say({ t: 'done', id: worker.of('call')[0]!.id, value: 1 });
    assert.equal(await call, 1);
    abort.abort();
    await settled();
    assert.equal(worker.of('cancel').length, 0);
  });
});

describe('handlers', () => {
  const event = (data: unknown): FromWorker => ({ t: 'event', event: 'e', data, timestamp: 3 });

  it('are given event, data and timestamp, and nothing else', async () => {
    const { client, worker } = await connected();
    const seen: unknown[] = [];
    client.on('e', (payload) => seen.push(payload));
    worker.say(event({ a: 1 }));
    assert.deepEqual(seen, [{ event: 'e', data: { a: 1 }, timestamp: 3 }]);
  });

  it('that throw harm no one else', async () => {
    const { client, worker } = await connected();
    const seen: unknown[] = [];
    const throwing = (what: string) => () => {
      throw new Error(what);
    };
    client.on('e', throwing('event'));
    client.on('e', ({ data }) => seen.push(data));
    client.subscribeState('k', throwing('state'));
    client.subscribeState('k', (value) => seen.push(value));
    client.onStatus(throwing('status'));
    client.onStatus(({ state }) => seen.push(state));
    worker.say(event(1), { t: 'snapshot', key: 'k', rev: 1, value: 2 }, { t: 'status', state: 'reconnecting', attempt: 1 });
    assert.deepEqual(seen, [undefined, 'connected', 1, 2, 'reconnecting']);
    assert.deepEqual(
      reported.map((error) => (error as Error).message),
      ['state', 'status', 'event', 'state', 'status'],
    );
  });

  it('may leave and join while they are called', async () => {
    const { client, worker } = await connected();
    const seen: string[] = [];
    const late = () => seen.push('late');
    const gone = () => seen.push('gone');
    client.on('e', () => {
      seen.push('first');
      client.off('e', gone);
      client.on('e', late);
    });
    client.on('e', gone);
    worker.say(event(1));
    assert.deepEqual(seen, ['first']);
    worker.say(event(2));
    assert.deepEqual(seen, ['first', 'first', 'late']);
  });

  it('are called once per event, however often the same one was added', async () => {
    const { client, worker } = await connected();
    let calls = 0;
    const handler = () => calls++;
    client.on('e', handler);
    client.on('e', handler);
    worker.say(event(1));
    assert.equal(calls, 1);
    client.off('e', handler);
    worker.say(event(2));
    assert.equal(calls, 1);
    await settled();
    assert.deepEqual([worker.of('subscribe').length, worker.of('unsubscribe').length], [1, 1]);
  });

  it('of the status end when asked to, each for itself', async () => {
    const { client, worker } = await connected();
    const seen: Status[] = [];
    const handler = (status: Status) => seen.push(status);
    const [endFirst] = [client.onStatus(handler), client.onStatus(handler)];
    endFirst();
    const status = { state: 'reconnecting', attempt: 1, retryInMs: 80, reason: { kind: 'closed', message: '', code: 1006 } } as const;
    worker.say({ t: 'status', ...status });
    assert.equal(seen.length, 3);
    assert.deepEqual(seen[2], status);
  });
});

describe('states', () => {
  it('share structure, and show no half of a patch', async () => {
    const { client, worker } = await connected();
    const seen: any[] = [];
    client.subscribeState('k', (value) => seen.push(value));
    worker.say({ t: 'snapshot', key: 'k', rev: 1, value: { rows: [{ n: 0 }, { n: 0 }], rest: {} } });
    const ops = [
      { op: 'replace', path: '/rows/0/n', value: 1 },
      { op: 'add', path: '/rows/-', value: { n: 2 } },
    ];
    worker.say({ t: 'patch', key: 'k', rev: 2, ops });
    const [, before, after] = seen;
    assert.deepEqual(before, { rows: [{ n: 0 }, { n: 0 }], rest: {} });
    assert.deepEqual(after, { rows: [{ n: 1 }, { n: 0 }, { n: 2 }], rest: {} });
    assert.equal(after.rest, before.rest);
    assert.equal(after.rows[1], before.rows[1]);
    assert.notEqual(after.rows[0], before.rows[0]);
    assert.equal(client.getState('k'), after);
    assert.equal(client.getState('k'), client.getState('k'));
  });

  it('that somebody has seen never change', async () => {
    const { client, worker } = await connected();
    client.getState('k');
    worker.say({ t: 'snapshot', key: 'k', rev: 1, value: [0] });
    const seen: unknown[] = [client.getState('k')];
    for (let rev = 2; rev < 5; rev++) {
      worker.say({ t: 'patch', key: 'k', rev, ops: [{ op: 'replace', path: '/0', value: rev }] });
      seen.push(client.getState('k'));
    }
    assert.deepEqual(seen, [[0], [2], [3], [4]]);
  });

  for (const [what, rev, ops] of [
    ['does not fit', 2, [{ op: 'replace', path: '/n', value: 9 }, { op: 'remove', path: '/none' }]],
    ['is out of step', 3, [{ op: 'replace', path: '/n', value: 9 }]],
  ] as const) {
    it(`are asked for again when a patch ${what}`, async () => {
      const { client, worker } = await connected();
      const seen: any[] = [];
      client.subscribeState('k', (value) => seen.push(value));
      worker.say({ t: 'snapshot', key: 'k', rev: 1, value: { n: 0 } });
      worker.say({ t: 'patch', key: 'k', rev, ops: [...ops] });
      worker.say({ t: 'patch', key: 'k', rev: rev + 1, ops: [...ops] });
      assert.deepEqual(client.getState('k'), { n: 0 });
      await settled();
      assert.deepEqual(worker.of('resync'), [{ t: 'resync', key: 'k', applied: false }]);
      worker.say({ t: 'snapshot', key: 'k', rev: 9, value: { n: 1 } });
      worker.say({ t: 'patch', key: 'k', rev: 10, ops: [{ op: 'replace', path: '/n', value: 2 }] });
      assert.deepEqual(seen, [undefined, { n: 0 }, { n: 1 }, { n: 2 }]);
    });
  }

  it('of keys that were left are forgotten, late messages about them too', async () => {
    const { client, worker } = await connected();
    client.subscribeState('k', () => {}).unsubscribe();
    worker.say({ t: 'snapshot', key: 'k', rev: 7, value: 7 });
    assert.equal(client.getState('k'), 7, 'until the core has left');
    worker.say({ t: 'left', kind: 'state', key: 'k' });
    worker.say({ t: 'snapshot', key: 'k', rev: 1, value: 1 }, { t: 'patch', key: 'k', rev: 2, ops: [] });
    await settled();
    assert.equal(worker.of('resync').length, 0);
    assert.equal(client.getState('k'), undefined);
  });

  it('go on when a handler is replaced', async () => {
    const { client, worker } = await connected();
    const [before, seen]: [unknown[], unknown[]] = [[], []];
    const first = client.subscribeState('k', (now) => before.push(now));
    worker.say({ t: 'snapshot', key: 'k', rev: 7, value: { n: 1 } });
    first.unsubscribe();
    client.subscribeState('k', (now) => seen.push(now));
    worker.say({ t: 'patch', key: 'k', rev: 8, ops: [{ op: 'replace', path: '/n', value: 2 }] });
    assert.deepEqual(seen, [{ n: 1 }, { n: 2 }]);
    assert.equal(seen[0], before[1], 'the same value, not a copy');
  });

  it('of a core that had left meanwhile come anew', async () => {
    const { client, worker } = await connected();
    client.subscribeState('k', () => {}).unsubscribe();
    worker.say({ t: 'snapshot', key: 'k', rev: 7, value: 7 });
    const seen: unknown[] = [];
    client.subscribeState('k', (now) => seen.push(now));
    worker.say({ t: 'left', kind: 'state', key: 'k' }, { t: 'snapshot', key: 'k', rev: 1, value: 1 });
    assert.deepEqual(seen, [7, 1]);
  });

  it('that are read only are followed for a minute, and asked for once a second at most', async (t) => {
    const { client, worker } = await connected();
    for (let times = 0; times < 3; times++) client.getState('k');
    await settled();
    assert.deepEqual(worker.of('unsubscribe').map(({ linger }) => linger), [60_000]);
    assert.equal(worker.of('subscribe').length, 1);
    worker.say({ t: 'refused', what: 'state', name: 'k', error: { code: -32002, message: 'no', retryable: false } });
    t.mock.timers.enable({ apis: ['Date'], now: Date.now() + 10_000 });
    client.getState('k');
    t.mock.timers.reset();
    await settled();
    assert.equal(worker.of('subscribe').length, 1, 'what was refused is not asked for again');
  });

  it('refused by the server are reported', async () => {
    const { client, worker } = await connected();
    client.subscribeState('secret', () => {});
    const error = { code: -32002, message: 'not allowed', retryable: false };
    worker.say({ t: 'refused', what: 'state', name: 'secret', error });
    const [report] = reported as DatasoleError[];
    assert.deepEqual([report?.name, report?.code, report?.message], ['DatasoleError', -32002, 'state secret: not allowed']);
  });
});

describe('losing the connection', () => {
  it('shows what goes on, drops events unless queued, and answers connect anew', async () => {
    const { client, worker } = await connected();
    const first = client.connect();
    worker.say({ t: 'status', state: 'reconnecting', attempt: 1, retryInMs: 10 });
    assert.equal(client.emit('e', 1), false);
    assert.equal(client.emit('e', 2, { queue: true }), true);
    const again = client.connect();
    assert.notEqual(again, first);
    await settled();
    assert.deepEqual(
      worker.received.slice(-2).map(({ t }) => t),
      ['emit', 'connect'],
    );
    worker.say(CONNECTED);
    await again;
    assert.equal(client.emit('e', 3), true);
  });

  it('for good rejects what is pending and ends the worker gently', async () => {
    const { client, worker } = await connected();
    const call = client.rpc('m');
    const reason = { kind: 'unauthorized', message: 'expired' } as const;
    worker.say({ t: 'status', state: 'disconnected', reason });
    await assert.rejects(call, { code: -32001, message: /expired/ });
    const seen: Status[] = [];
    client.onStatus((status) => seen.push(status));
    assert.deepEqual(seen, [{ state: 'disconnected', reason }]);
    assert.equal(worker.received.at(-1)!.t, 'close');
    assert.equal(worker.terminated, false, 'it may say goodbye first');
  });
});

describe('a worker that fails', () => {
  const FATALS: Record<string, (worker: FakeWorker) => void> = {
    'a panic': (worker) => worker.say({ t: 'fatal', message: 'panicked' }),
    'an error event': (worker) => worker.fail('panicked'),
    'an unreadable message': (worker) => worker.onmessageerror!(),
  };
  for (const [what, fail] of Object.entries(FATALS)) {
    it(`by ${what}: calls reject, a new one takes over`, async () => {
      const { client, worker } = await connected();
      const seen: unknown[] = [];
      client.subscribeState('k', (value) => seen.push(value));
      client.on('chat', () => {});
      const votes = client.crdt.counter('votes');
      for (const by of [1, 10, 100]) votes.increment(by);
      client.presence('lobby').join('ann');
      await settled();
      const [first] = worker.of('edit');
      worker.say({ t: 'snapshot', key: 'k', rev: 5, value: 'before' });
      const about = { kind: 'crdt', key: 'votes' };
      worker.say({ t: 'settled', ...about, id: first!.id, returns: true }, { t: 'entry', ...about, rev: 1, data: JSON.parse(first!.json!) });
      assert.equal(client.crdt.pending, 2);
      const call = client.rpc('m');
      fail(worker);
      await assert.rejects(call, { name: 'DatasoleError', code: -32106 });
      assert.equal(client.getConnectionState(), 'reconnecting');
      assert.equal(client.getState('k'), 'before');
      let back = false;
      void client.connect().then(() => (back = true));
      const next = await ready(1);
      assert.ok(worker.terminated);
      assert.deepEqual(
        next.received.map(({ t }) => t),
        ['init', 'subscribe', 'subscribe', 'open', 'edit', 'edit', 'open', 'show', 'connect', 'connect'],
      );
      assert.deepEqual(next.of('edit'), worker.of('edit').slice(1));
      assert.deepEqual([votes.value(), client.crdt.pending], [111, 2]);
      next.say({ t: 'status', state: 'connecting' });
      await settled();
      assert.deepEqual([client.getConnectionState(), back], ['reconnecting', false]);
      next.say(CONNECTED, { t: 'snapshot', key: 'k', rev: 1, value: 'after' });
      assert.deepEqual(seen, [undefined, 'before', 'after']);
      await settled();
      assert.deepEqual([client.getConnectionState(), back], ['connected', true]);
      assert.equal(reported.length, 1);
    });
  }

  it('again is not replaced again', async () => {
    const { client, worker } = await connected();
    worker.fail('first');
    const next = await ready(1);
    next.say(CONNECTED);
    const call = client.rpc('m');
    next.fail('second');
    await assert.rejects(call, { code: -32106, message: 'second' });
    await settled();
    assert.equal(client.getConnectionState(), 'disconnected');
    assert.equal(FakeWorker.all.length, 2);
  });

  it('late messages of a replaced worker mean nothing', async () => {
    const { client, worker } = await connected();
    const { onmessage } = worker;
    worker.fail('gone');
    await settled();
    onmessage!({ data: JSON.stringify([CONNECTED]) });
    assert.equal(client.getConnectionState(), 'reconnecting');
  });
});

describe('tokens', () => {
  it('are asked for on demand', async () => {
    let token: () => string | Promise<string> = () => 'one';
    const { worker } = await connected({ getToken: () => token() });
    assert.equal(worker.of('init')[0]!.options.askToken, true);
    worker.say({ t: 'token' });
    await settled();
    token = async () => 'two';
    worker.say({ t: 'token' });
    await settled();
    token = () => Promise.reject(new Error('logged out'));
    worker.say({ t: 'token' });
    await settled();
    assert.deepEqual(worker.of('token'), [
      { t: 'token', token: 'one' },
      { t: 'token', token: 'two' },
      { t: 'token', error: 'logged out' },
    ]);
  });
});

describe('the page', () => {
  it('tells the core what it goes through, while there is one', async () => {
    const page = new EventTarget();
    const document = Object.assign(new EventTarget(), { hidden: false });
    const scope = globalThis as any;
    scope.addEventListener = page.addEventListener.bind(page);
    scope.document = document;
    try {
      const { client, worker } = await connected();
      const fire = (target: EventTarget, name: string) => target.dispatchEvent(new Event(name));
      fire(page, 'offline');
      fire(page, 'online');
      document.hidden = true;
      fire(document, 'visibilitychange');
      document.hidden = false;
      fire(document, 'visibilitychange');
      fire(page, 'pageshow');
      fire(document, 'resume');
      await settled();
      assert.deepEqual(
        worker.of('hint').map(({ kind }) => kind),
        ['offline', 'online', 'hidden', 'visible', 'visible', 'visible'],
      );
      await client.disconnect();
      fire(page, 'online');
      await settled();
      assert.equal(worker.of('hint').length, 6);
    } finally {
      delete scope.addEventListener;
      delete scope.document;
    }
  });
});
