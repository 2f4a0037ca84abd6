// Clients that share a worker: the hub on the real wasm core, pages and worker joined by ports and locks of the test's own.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, it } from 'node:test';
import * as Y from 'yjs';
import { DatasoleClient, PNCounter, type DatasoleClientOptions } from '../src/client.js';
import { simulate } from '../src/devtools.js';
import { toolsOf } from '../src/devtools/tools.js';
import { createEngine } from '../src/engine.js';
import { serve } from '../src/hub.js';
import { live, seed } from '../src/live.js';
import { DatasoleProvider } from '../src/yjs.js';
import { FakeSocket, HELLO, OP, sent } from './fake-socket.js';
import { serveV1, wasmUrl } from './real-core.js';

/** Web Locks, and the end of those who hold some. */
class Locks {
  readonly #held = new Map<string, () => void>();
  readonly #waiting = new Map<string, (() => void)[]>();

  request = async (name: string, ...[options, callback]: [any, any?]): Promise<void> => {
    const { signal } = callback ? options : {};
    if (this.#held.has(name)) {
      await new Promise<void>((granted, refused) => {
        this.#waiting.set(name, [...(this.#waiting.get(name) ?? []), granted]);
        signal?.addEventListener('abort', () => refused(signal.reason));
      });
    }
    const ended = new Promise<void>((end) => this.#held.set(name, end));
    await Promise.race([(callback ?? options)(), ended]);
    this.#held.delete(name);
    const waiting = this.#waiting.get(name) ?? [];
    this.#waiting.delete(name);
    for (const granted of waiting) granted();
  };

  names(prefix: string): string[] {
    return [...this.#held.keys()].filter((name) => name.startsWith(prefix));
  }

  /** Whoever holds it is gone. */
  kill(name: string): void {
    this.#held.get(name)!();
  }
}

const scope = globalThis as any;
const GIVEN = ['navigator', 'SharedWorker', 'self', 'WebSocket', 'fetch'] as const;
const before = GIVEN.map((name) => Object.getOwnPropertyDescriptor(scope, name));
let locks: Locks;
/** The workers that run, by name. */
let workers: Map<string, ReturnType<typeof serve>>;
let ports: MessagePort[];
let clients: DatasoleClient[];

class FakeSharedWorker {
  readonly port: MessagePort;
  onerror = null;

  constructor(_: string, { name }: { name: string }) {
    const { port1, port2 } = new MessageChannel();
    ports.push(port1, port2);
    this.port = port1;
    if (!workers.has(name)) workers.set(name, serve(locks as unknown as LockManager, createEngine));
    workers.get(name)!({ ports: [port2] });
  }
}

beforeEach(() => {
  [locks, workers, ports, clients] = [new Locks(), new Map(), [], []];
  FakeSocket.all = [];
  FakeSocket.serve = server;
  value = { n: 0 };
  [seq, votes, operations, members] = [1, new PNCounter('server'), 0, []];
  const values = { navigator: { locks }, SharedWorker: FakeSharedWorker, self: { origin: 'http://localhost:1' }, WebSocket: FakeSocket, fetch };
  for (const name of GIVEN) Object.defineProperty(scope, name, { value: values[name], configurable: true, writable: true });
});

afterEach(async () => {
  for (const client of clients) await client.disconnect();
  for (const port of ports) port.close();
  GIVEN.forEach((name, at) => (before[at] ? Object.defineProperty(scope, name, before[at]) : delete scope[name]));
});

/** The wasm, which the worker loads itself. */
const fetch = async () => new Response(readFileSync(wasmUrl));

/** The state `board` of the server. */
let value: any;
let seq: number;

/** Answers calls with their parameters, follows what it is asked for, takes CRDT operations unless `deaf`. */
let deaf = false;
let votes: PNCounter;
let operations: number;
let members: unknown[];
function server(socket: FakeSocket): void {
  socket.onframe = ({ opcode, correlation, payload }) => {
    if (opcode === OP.request && payload.method !== 'never') {
      socket.frame(OP.response, { correlationId: correlation, result: payload.params }, correlation);
    }
    if (opcode === OP.subscribe) {
      const { kind, key } = payload;
      const at = { epoch: 1, seq };
      if (key === 'forbidden') return socket.frame(OP.error, { code: -32002, message: 'no' }, correlation);
      socket.frame(OP.subscribed, { ...at, recovered: false, channel: kind === 'doc' ? 7 : undefined }, correlation);
      if (kind === 'state') socket.frame(OP.snapshot, { key, version: seq, data: value, ...at });
      if (kind === 'presence') socket.frame(OP.presence, { key, members, whole: true, ...at });
      if (kind === 'crdt') socket.frame(OP.crdtState, { key, state: votes.state(), epoch: 1, seq: operations });
    }
    if (opcode === OP.presence) socket.frame(OP.ack, Uint8Array.of(0), correlation);
    if (opcode === OP.crdtOp && !deaf) {
      assert.ok(votes.apply(payload.op), 'nothing comes twice');
      socket.frame(OP.ack, Uint8Array.of(++operations), correlation);
      socket.frame(OP.crdtOp, { ...payload, epoch: 1, seq: operations });
    }
  };
  socket.accept('datasole.v2');
  socket.frame(OP.hello, HELLO);
}

function patch(n: number): void {
  value = { ...value, n };
  const message = { key: 'board', patches: [{ op: 'replace', path: '/n', value: n }], epoch: 1, seq: ++seq };
  FakeSocket.all.at(-1)!.frame(OP.patch, message);
}

function tab(options: Partial<DatasoleClientOptions> = {}): DatasoleClient {
  const client = new DatasoleClient({ url: 'http://localhost:1', wasmUrl, useWorker: true, shared: true, reconnectInterval: 1, ...options });
  clients.push(client);
  return client;
}

async function connected(options?: Partial<DatasoleClientOptions>): Promise<DatasoleClient> {
  const client = tab(options);
  await client.connect();
  return client;
}

async function until(holds: () => boolean): Promise<void> {
  const end = Date.now() + 5_000;
  while (!holds()) {
    assert.ok(Date.now() < end, `in time: ${holds}`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** Values of a state as a client's handler gets them. */
function followed(client: DatasoleClient, key = 'board'): any[] {
  const seen: any[] = [];
  client.subscribeState(key, (value) => value && seen.push(value));
  return seen;
}
const socket = () => FakeSocket.all.at(-1)!;
const keys = (opcode: number) => sent(socket(), opcode).map(({ payload }) => payload.key);

const { now } = performance;
function trap(): never {
  performance.now = now;
  throw new Error('panicked');
}

describe('tabs of a shared worker', () => {
  it('have one connection, and the later one the state that is here', async () => {
    const a = await connected();
    const first = followed(a);
    await until(() => first.length === 1);
    patch(1);
    await until(() => first.length === 2);
    const b = await connected();
    const second = followed(b);
    await until(() => second.length === 1);
    assert.deepEqual([second, FakeSocket.all.length, keys(OP.subscribe)], [[{ n: 1 }], 1, ['board']]);
    patch(2);
    await until(() => first.length === 3 && second.length === 2);
    assert.deepEqual([first.at(-1), second.at(-1)], [{ n: 2 }, { n: 2 }]);
    const ids: unknown[] = [];
    for (const client of [a, b]) client.onStatus(({ connectionId }) => ids.push(connectionId));
    assert.deepEqual(ids, ['c1', 'c1']);
  });

  it('get the answers to their own calls, events they listen to, and nothing else', async () => {
    const [a, b] = [await connected(), await connected()];
    const answers = await Promise.all([a, b].flatMap((client, tab) => [1, 2, 3].map((n) => client.rpc('echo', { tab, n }))));
    assert.deepEqual(answers, [0, 1].flatMap((tab) => [1, 2, 3].map((n) => ({ tab, n }))));
    const heard: unknown[] = [];
    a.on('one', ({ data }) => heard.push(['a', data]));
    b.on('two', ({ data }) => heard.push(['b', data]));
    await until(() => keys(OP.subscribe).length === 2);
    for (const event of ['one', 'two']) socket().frame(OP.event, { event, data: event, timestamp: 1 });
    await until(() => heard.length === 2);
    assert.deepEqual(heard.sort(), [['a', 'one'], ['b', 'two']]);
  });

  it('have workers of their own with other options', async () => {
    await connected();
    await connected({ auth: { token: 'other' } });
    await connected({ shared: 'bob' });
    await connected({ reconnectInterval: 2 });
    await connected({ shared: 'bob' });
    assert.deepEqual([FakeSocket.all.length, workers.size], [4, 4]);
    assert.ok([...workers.keys()].every((name) => /^datasole [0-9a-f]{64}$/.test(name)), 'no token is in a name');
  });

  it('have what others have opened: CRDTs and rooms, each as a whole', async () => {
    const a = await connected();
    const [votes, room] = [a.crdt.counter('votes'), a.presence('room')];
    votes.increment(3);
    room.subscribe(() => {});
    await until(() => !votes.pending && keys(OP.subscribe).length === 2);
    const b = await connected();
    const late = b.crdt.counter('votes');
    await until(() => late.value() === 3);
    late.increment(4);
    await until(() => votes.value() === 7 && !late.pending);
    members = [{ id: 'c1', userId: 'ann', value: 1 }];
    const seen: unknown[] = [];
    b.presence('room').subscribe((all) => seen.push(all.map(({ value, self }) => [value, self])));
    await until(() => seen.length > 1 && room.members.length === 1);
    assert.deepEqual(seen, [[], [[1, true]]]);
  });

  it('go on with a state that was left for a moment, and let go of it later, each by itself', async () => {
    const [a, b] = [await connected(), await connected()];
    const seen = followed(b);
    a.subscribeState('board', () => {}).unsubscribe();
    await until(() => seen.length === 1);
    const again = followed(a);
    patch(1);
    await until(() => again.at(-1)?.n === 1 && seen.at(-1).n === 1);
    assert.deepEqual(keys(OP.subscribe), ['board']);
  });

  it('ask once for a state that a change does not fit, however many follow it', async () => {
    const tabs = [await connected(), await connected(), await connected()];
    const seen = tabs.map((client) => followed(client));
    await until(() => seen.every(({ length }) => length === 1));
    value = { n: 5 };
    const patches = [{ op: 'replace', path: '/none/n', value: 5 }];
    socket().frame(OP.patch, { key: 'board', patches, epoch: 1, seq: ++seq });
    await until(() => seen.every((values) => values.at(-1).n === 5));
    assert.deepEqual(keys(OP.subscribe), ['board', 'board']);
    const late = followed(await connected());
    await until(() => late.length === 1);
    assert.deepEqual([late, keys(OP.subscribe).length], [[{ n: 5 }], 2]);
  });

  it('are refused what they follow each by itself, and may ask again', async () => {
    const errors: unknown[] = [];
    const { error } = console;
    console.error = (error: unknown) => errors.push(error);
    const [a, b] = [await connected(), await connected()];
    a.on('forbidden', () => {});
    await until(() => errors.length === 1);
    b.on('forbidden', () => {});
    await until(() => errors.length === 2);
    console.error = error;
    assert.equal(keys(OP.subscribe).length, 2);
  });

  it('leave nothing behind: calls, streams, rooms, and with the last one the connection', async () => {
    const a = await connected();
    const [name] = locks.names('datasole page');
    followed(a, 'mine');
    const seen = followed(a);
    a.presence('room').join({ tab: 'a' });
    const call = a.rpc('never').catch(({ message }) => message);
    const b = await connected();
    followed(b);
    b.presence('room').join({ tab: 'b' });
    // The room twice: for the later tab it was asked for anew.
    await until(() => seen.length === 1 && keys(OP.subscribe).length === 4 && sent(socket(), OP.presence).length >= 2);
    locks.kill(name!);
    const mine = sent(socket(), OP.subscribe).find(({ payload }) => payload.key === 'mine')!;
    await until(() => sent(socket(), OP.cancel).length === 1);
    await until(() => sent(socket(), OP.unsubscribe).some(({ correlation }) => correlation === mine.correlation));
    assert.deepEqual(sent(socket(), OP.presence).map(({ payload }) => payload.value.tab), ['a', 'b'], 'which shows the last one still');
    patch(1);
    await until(() => (b.getState('board') as any)?.n === 1);
    await b.disconnect();
    await until(() => !!socket().closedWith);
    assert.equal(FakeSocket.all.length, 1);
    await a.disconnect();
    assert.match(await call, /closed/);
  });

  it('are offline no longer than those that can end it, and show what another has done', async () => {
    const [a, b] = [await connected(), await connected()];
    const [name] = locks.names('datasole page');
    simulate(a, { offline: true, latency: 5 });
    await until(() => b.getConnectionState() === 'reconnecting');
    locks.kill(name!);
    await until(() => b.getConnectionState() === 'connected');
    const c = await connected();
    simulate(c, { offline: true });
    await until(() => b.getConnectionState() === 'reconnecting');
    // Opened later, they show the network as it is.
    await until(() => !!toolsOf(b).network.offline);
    simulate(b, { offline: false, latency: 1 });
    await until(() => toolsOf(c).network.latency === 1);
    assert.deepEqual(toolsOf(c).network, { offline: false, latency: 1 });
    await until(() => c.getConnectionState() === 'connected');
    await c.disconnect();
    await b.rpc('echo', 1);
    assert.equal(toolsOf(b).network.latency, 1, 'another tab still shows it');
  });

  it('show the last value in a room, and that of another when it is gone', async () => {
    const [a, b] = [await connected(), await connected()];
    const shown = () => sent(socket(), OP.presence).at(-1)?.payload.value;
    a.presence('room', { throttle: 0 }).join('a');
    await until(() => shown() === 'a');
    b.presence('room', { throttle: 0 }).join('b');
    await until(() => shown() === 'b');
    b.presence('room').leave();
    await until(() => shown() === 'a');
  });

  for (const [how, end] of [
    ['worker is terminated', () => (workers.clear(), locks.kill(locks.names('datasole worker')[0]!))],
    // The core asks for the time whenever it is entered.
    ['wasm panics', () => ((performance.now = trap), void clients[0]!.rpc('echo').catch(() => {}))],
  ] as const) {
    it(`connect anew when their ${how}, lose no operation and send none twice`, async () => {
      const { error } = console;
      console.error = () => {};
      const [a, b] = [await connected(), await connected()];
      const [first, second] = [followed(a), followed(b)];
      const [ca, cb] = [a.crdt.counter('votes'), b.crdt.counter('votes')];
      ca.increment(1);
      await until(() => !ca.pending && cb.value() === 1 && first.length === 1 && second.length === 1);
      deaf = true;
      ca.increment(10);
      cb.increment(100);
      await until(() => sent(socket(), OP.crdtOp).length === 3);
      deaf = false;
      const lost = socket();
      end();
      value = { n: 7 };
      await until(() => FakeSocket.all.length === 2 && !ca.pending && !cb.pending);
      await until(() => first.at(-1).n === 7 && second.at(-1).n === 7);
      console.error = error;
      assert.equal(FakeSocket.all.length, 2, 'one connection again');
      assert.deepEqual([votes.value(), ca.value(), cb.value()], [111, 111, 111]);
      const op = ({ payload }: any) => `${payload.op.nodeId} ${payload.op.counter}`;
      assert.deepEqual(sent(socket(), OP.crdtOp).map(op).sort(), sent(lost, OP.crdtOp).slice(1).map(op).sort());
    });
  }

  it('go on together to another server', async () => {
    const url = ['http://localhost:1', 'http://localhost:2'];
    let down = '';
    FakeSocket.serve = (socket) => (down && socket.url.startsWith(down) ? socket.drop(1006) : server(socket));
    const tabs = [await connected({ url }), await connected({ url })];
    const seen = tabs.map((client) => followed(client));
    await until(() => seen.every(({ length }) => length === 1));
    down = new URL(socket().url).origin;
    value = { n: 5 };
    socket().drop(1012);
    await until(() => seen.every((values) => values.at(-1).n === 5));
    assert.notEqual(new URL(socket().url).origin, down);
    assert.deepEqual(await Promise.all(tabs.map((client, n) => client.rpc('echo', n))), [0, 1]);
  });

  const stale = (client: DatasoleClient) => live(client, 'board').getSnapshot().stale;

  it('go on from what a server has rendered, and later ones get the whole value', async () => {
    seq = 7;
    value = { n: 7 };
    FakeSocket.serve = (socket) => {
      server(socket);
      const { onframe } = socket;
      socket.onframe = (frame) => {
        const { since, kind } = frame.payload ?? {};
        if (frame.opcode !== OP.subscribe || kind !== 'state' || !since) return onframe!(frame);
        socket.frame(OP.subscribed, { ...since, recovered: true }, frame.correlation);
        for (let n = since.seq + 1; n <= seq; n++) {
          socket.frame(OP.patch, { key: 'board', patches: [{ op: 'replace', path: '/n', value: n }], epoch: 1, seq: n });
        }
      };
    };
    const a = await connected();
    seed(a, 'board', { value: { n: 4 }, epoch: 1, seq: 4 });
    const first = followed(a);
    await until(() => first.at(-1)?.n === 7);
    assert.deepEqual(sent(socket(), OP.subscribe).map(({ payload }) => payload.since), [{ epoch: 1, seq: 4 }]);
    assert.deepEqual([first[0], sent(socket(), OP.subscribe).length], [{ n: 4 }, 1], 'no whole value was needed');
    live(a, 'board').subscribe(() => {});
    assert.equal(stale(a), false);
    // Neither from another position, nor from none, is anything missing.
    const b = await connected();
    seed(b, 'board', { value: { n: 2 }, epoch: 1, seq: 2 });
    const [second, third] = [followed(b), followed(await connected())];
    await until(() => second.at(-1)?.n === 7 && third.at(-1)?.n === 7);
    patch(8);
    await until(() => [first, second, third].every((seen) => seen.at(-1).n === 8));
    assert.equal(sent(socket(), OP.subscribe).length, 2);
  });

  it('show what is here as stale until the server has answered on a new connection', async () => {
    const a = await connected();
    const first = followed(a);
    await until(() => first.length === 1);
    FakeSocket.serve = () => {};
    socket().drop();
    await until(() => a.getConnectionState() === 'reconnecting');
    const b = tab();
    void b.connect();
    live(b, 'board').subscribe(() => {});
    await until(() => live(b, 'board').getSnapshot().status === 'ready');
    assert.equal(stale(b), true);
    FakeSocket.serve = server;
    await until(() => FakeSocket.all.length > 1);
    server(socket());
    await until(() => b.getConnectionState() === 'connected' && !stale(b) );
  });

  it('show as current what is, also to one that followed it before it connected, and again after each of its connections', async () => {
    const a = await connected();
    live(a, 'board').subscribe(() => {});
    await until(() => live(a, 'board').getSnapshot().status === 'ready' && !stale(a));
    const b = tab();
    const shown: unknown[] = [];
    live(b, 'board').subscribe(() => shown.push(live(b, 'board').getSnapshot().data));
    for (const n of [1, 2]) {
      await b.connect();
      await until(() => (shown.at(-1) as any)?.n === value.n);
      patch(n);
      await until(() => (shown.at(-1) as any)?.n === n);
      assert.deepEqual([stale(a), stale(b), keys(OP.subscribe)], [false, false, ['board']]);
      await b.disconnect();
      assert.deepEqual([stale(a), stale(b)], [false, true]);
    }
  });

  it('show as stale what one followed while there was no connection, until the server has answered', async () => {
    const a = await connected();
    live(a, 'board').subscribe(() => {});
    await until(() => live(a, 'board').getSnapshot().status === 'ready' && !stale(a));
    FakeSocket.serve = () => {};
    socket().drop();
    await until(() => a.getConnectionState() === 'reconnecting' && FakeSocket.all.length === 2);
    const b = tab();
    live(b, 'board').subscribe(() => {});
    void b.connect();
    await until(() => live(b, 'board').getSnapshot().status === 'ready' && b.getConnectionState() === 'reconnecting');
    // A server that greets, and does not answer.
    socket().accept('datasole.v2');
    socket().frame(OP.hello, HELLO);
    await until(() => b.getConnectionState() === 'connected' && keys(OP.subscribe).length === 1);
    assert.deepEqual([stale(a), stale(b)], [true, true]);
    const [{ correlation }] = sent(socket(), OP.subscribe) as [any];
    socket().frame(OP.subscribed, { epoch: 1, seq, recovered: true }, correlation);
    await until(() => !stale(a) && !stale(b));
  });

  it('ask each other for a token, and take the first', async () => {
    const none = () => Promise.reject(new Error('none here'));
    const a = tab({ getToken: none });
    void a.connect().catch(() => {});
    const reasons: unknown[] = [];
    a.onStatus(({ reason }) => reasons.push(reason?.message));
    await until(() => reasons.includes('none here'));
    let asked = 0;
    const b = await connected({ getToken: () => (asked++, 'secret') });
    await until(() => a.getConnectionState() === 'connected');
    assert.match(socket().url, /secret/);
    const before = asked;
    socket().drop();
    await until(() => FakeSocket.all.length === 2 && [a, b].every((client) => client.getConnectionState() === 'connected'));
    assert.match(socket().url, /secret/);
    assert.ok(asked > before);
  });

  it('have connections of their own for documents, which end with them', async () => {
    const [a, b] = [await connected(), await connected()];
    const providers = [a, b].map((client) => new DatasoleProvider(client, 'doc', new Y.Doc()));
    await until(() => FakeSocket.all.length === 3);
    const [main, ...own] = FakeSocket.all;
    await until(() => own.every((socket) => sent(socket, OP.subscribe).some(({ payload }) => payload.key === 'doc')));
    assert.deepEqual(sent(main!, OP.subscribe), []);
    await b.disconnect();
    await until(() => own.some(({ closedWith }) => closedWith));
    assert.deepEqual([main!, ...own].filter(({ closedWith }) => closedWith).length, 1);
    for (const provider of providers) provider.destroy();
  });

  it('share what a server of version 1 sends unasked', async () => {
    FakeSocket.serve = serveV1;
    const a = await connected();
    const first = followed(a);
    socket().frame(OP.snapshot, { key: 'board', version: 1, data: { n: 1 } });
    await until(() => first.length === 1);
    socket().frame(OP.patch, { key: 'board', version: 2, patches: [{ op: 'replace', path: '/n', value: 2 }] });
    await until(() => first.length === 2);
    const second = followed(await connected());
    await until(() => second.length === 1);
    assert.deepEqual(second, [{ n: 2 }]);
  });
});

it('where no worker can be shared, each tab has its own, which is said once', async () => {
  const lines: string[] = [];
  const { warn } = console;
  console.warn = (line: string) => lines.push(line);
  scope.SharedWorker = undefined;
  // On this thread: there is no worker either.
  await connected();
  await connected();
  console.warn = warn;
  assert.deepEqual([FakeSocket.all.length, lines.length], [2, 1]);
  assert.match(lines[0]!, /no shared workers here, so each tab has a connection of its own/);
});
