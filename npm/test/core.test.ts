// The facade on the real wasm core, in-thread, against a WebSocket whose server is the test.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { DatasoleClient, type DatasoleClientOptions } from '../src/client.js';
import { binary, FakeSocket, HELLO, hex, OP, sent, settled } from './fake-socket.js';

const root = new URL('../../../', import.meta.url);
const wasmUrl = fileURLToPath(new URL('npm/generated/datasole_wasm_bg.wasm', root));
const vector = (name: string) => JSON.parse(readFileSync(new URL(`tests/vectors/${name}.json`, root), 'utf8'));

let clients: DatasoleClient[] = [];

beforeEach(() => {
  FakeSocket.all = [];
  (globalThis as any).WebSocket = FakeSocket;
});

afterEach(async () => {
  await Promise.all(clients.map((client) => client.disconnect()));
  clients = [];
});

function makeClient(options: Partial<DatasoleClientOptions> = {}): DatasoleClient {
  const client = new DatasoleClient({ url: 'http://localhost:1', wasmUrl, ...options });
  clients.push(client);
  return client;
}

/** A connected client and its socket. */
async function connected(protocol: 'v1' | 'v2', options?: Partial<DatasoleClientOptions>) {
  FakeSocket.serve = protocol === 'v1' ? serveV1 : serveV2;
  const client = makeClient(options);
  await client.connect();
  return { client, socket: FakeSocket.all.at(-1)! };
}

function serveV1(socket: FakeSocket): void {
  socket.accept('datasole.v1');
}

/** Answers what it is asked, with a state `board` and an event topic at seq 3. */
function serveV2(socket: FakeSocket): void {
  socket.onframe = ({ opcode, correlation, payload }) => {
    if (opcode === OP.request) {
      socket.frame(OP.response, { correlationId: correlation, result: payload.params }, correlation);
    }
    if (opcode === OP.subscribe) {
      socket.frame(OP.subscribed, { epoch: 1, seq: 3, recovered: false }, correlation);
      if (payload.kind === 'state') {
        socket.frame(OP.snapshot, { key: payload.key, version: 3, data: { n: 0, rest: {} }, epoch: 1, seq: 3 });
      }
    }
  };
  socket.accept('datasole.v2');
  socket.frame(OP.hello, HELLO);
}

describe('v1-session', () => {
  it('ends in the final state', async () => {
    const { messages, finalState } = vector('v1-session');
    const { client, socket } = await connected('v1');
    for (const { from, wire } of messages) if (from === 'server') socket.deliver(hex(wire));
    await settled();
    for (const [key, value] of Object.entries(finalState)) assert.deepEqual(client.getState(key), value, key);
    assert.equal(client.getConnectionState(), 'connected');
  });
});

describe('v1-frames', () => {
  const { frames, malformed } = vector('v1-frames');
  for (const { name, opcode, correlationId, payload, wire } of frames) {
    it(name, async () => {
      const { client, socket } = await connected('v1');
      const events: unknown[] = [];
      if (opcode === OP.event) client.on(payload.event, (event) => events.push(event));
      const calls = opcode === OP.response || opcode === OP.error ? correlationId : 0;
      const outcomes = Array.from({ length: calls }, () => client.rpc('m').catch((error) => ({ error })));
      if (opcode === OP.patch) {
        const data = { visitors: 0, rows: [], 'a/b': 1 };
        socket.frame(OP.snapshot, { key: payload.key, version: 1, data });
      }
      await settled();
      socket.deliver(hex(wire));
      await settled();
      switch (opcode) {
        case OP.response: {
          const outcome = await outcomes.at(-1);
          const { code, message } = outcome?.error ?? {};
          if (payload.error) assert.deepEqual({ code, message }, payload.error);
          else assert.deepEqual(outcome, payload.result);
          break;
        }
        case OP.error: {
          const { message, retryAfter } = (await outcomes.at(-1)).error;
          assert.deepEqual({ message, retryAfter }, payload);
          break;
        }
        case OP.event:
          assert.deepEqual(events, [payload]);
          break;
        case OP.snapshot:
          assert.deepEqual(client.getState(payload.key), payload.data);
          break;
        case OP.patch: {
          const expected = payload.key === 'k' ? [1, 2, 3] : { visitors: 42, rows: [{ id: 1, n: null }] };
          assert.deepEqual(client.getState(payload.key), expected);
          break;
        }
        case OP.request:
          void client.rpc(payload.method, payload.params ?? undefined).catch(() => {});
          await settled();
          assert.deepEqual(sent(socket, opcode)[0]!.payload, { ...payload, correlationId: 1 });
          break;
        case OP.emitted:
          client.emit(payload.event, payload.data);
          await settled();
          assert.deepEqual(sent(socket, opcode)[0]!.payload, payload);
          break;
        default:
          // Heartbeats and CRDTs: nothing that this client shows.
          assert.equal(client.getConnectionState(), 'connected');
      }
    });
  }

  for (const { name, wire } of malformed) {
    it(`${name} is dropped and harms nothing`, async () => {
      const { client, socket } = await connected('v1');
      socket.deliver(hex(wire));
      const call = client.rpc('echo', 1);
      await settled();
      socket.frame(OP.response, { correlationId: 1, result: 1 }, 1);
      assert.equal(await call, 1);
    });
  }
});

describe('version 1', () => {
  it('mirrors keys that nobody asked for', async () => {
    const { client, socket } = await connected('v1');
    socket.frame(OP.patch, { key: 'new', patches: [{ op: 'add', path: '/a', value: 1 }] });
    socket.frame(OP.patch, { key: 'list', patches: [{ op: 'add', path: '/0', value: 1 }] });
    await settled();
    assert.deepEqual([client.getState('new'), client.getState('list')], [{ a: 1 }, [1]]);
  });

  it('keeps a value after the last handler has left', async () => {
    const { client, socket } = await connected('v1');
    client.subscribeState('k', () => {}).unsubscribe();
    socket.frame(OP.snapshot, { key: 'k', version: 1, data: 1 });
    await settled();
    assert.equal(client.getState('k'), 1);
    assert.deepEqual(sent(socket, OP.subscribe), []);
  });

  it('refuses raw bytes', async () => {
    const { client } = await connected('v1');
    await assert.rejects(client.rpc('m', new Uint8Array(1)), { code: -32600 });
  });
});

describe('CRDTs and presence', () => {
  it('are sent, acknowledged and received on version 2', async () => {
    const { client, socket } = await connected('v2');
    const votes = client.crdt.counter('votes');
    const state = { type: 'pn-counter', value: 7, metadata: { type: 'pn-counter', nodeId: 'b', timestamp: 1, version: 1 } };
    const own = { vector: { increments: { b: 7 }, decrements: {} }, seen: { b: [1, 1] } };
    const metadata = { ...state.metadata, ...own };
    await settled();
    assert.deepEqual(sent(socket, OP.subscribe).at(-1)!.payload, { kind: 'crdt', key: 'votes' });
    socket.frame(OP.crdtState, { key: 'votes', state: { ...state, metadata }, epoch: 1, seq: 3 });
    await settled();
    assert.equal(votes.value(), 7);
    votes.increment(5);
    await settled();
    const [{ payload, correlation }] = sent(socket, OP.crdtOp) as any;
    assert.deepEqual([payload.op.op, payload.op.counter, client.crdt.pending], ['increment', 1, 1]);
    socket.frame(OP.crdtOp, { ...payload, epoch: 1, seq: 4 });
    socket.frame(OP.ack, new Uint8Array([4]), correlation);
    await settled();
    assert.deepEqual([votes.value(), client.crdt.pending], [12, 0]);
  });

  it('leaves sending to the application on version 1, where an operation would count each time it comes', async () => {
    const { client, socket } = await connected('v1');
    const votes = client.registerCrdt('app').register('votes', 'pn-counter');
    votes.increment(5);
    await settled();
    assert.deepEqual(sent(socket, OP.crdtOp), []);
    assert.equal(votes.pending, 0);
    const metadata = { type: 'pn-counter', nodeId: 'b', timestamp: 1, version: 2 };
    const vector = { increments: { [votes.nodeId]: 5, b: 1 }, decrements: { b: 2 } };
    const state = { type: 'pn-counter', value: 4, metadata: { ...metadata, vector } };
    socket.frame(OP.crdtState, { key: 'votes', state });
    await settled();
    assert.equal(votes.value(), 4);
  });

  it('shows what a version 1 server said before anybody asked', async () => {
    const { client, socket } = await connected('v1');
    const metadata = { type: 'lww-register', nodeId: 'other', timestamp: 5, version: 1 };
    socket.frame(OP.crdtState, { key: 'title', state: { type: 'lww-register', value: 'hello', metadata } });
    await settled();
    const title = client.crdt.register('title', 'none');
    assert.equal(title.value(), 'none');
    await settled();
    assert.equal(title.value(), 'hello');
  });

  it('joins a room and lists it', async () => {
    const { client, socket } = await connected('v2');
    const room = client.presence('lobby');
    room.join({ name: 'Ann' });
    await settled();
    assert.deepEqual(sent(socket, OP.presence)[0]!.payload, { key: 'lobby', value: { name: 'Ann' } });
    const members = [{ id: 'c1', userId: 'ann', value: { name: 'Ann' } }];
    socket.frame(OP.presence, { key: 'lobby', members, whole: true, epoch: 1, seq: 3 });
    await settled();
    assert.deepEqual(room.members, [{ ...members[0], self: true }]);
    assert.equal(client.presence('lobby'), room);
  });
});

describe('version 2', () => {
  it('offers both versions and shows what HELLO says', async () => {
    const { client, socket } = await connected('v2');
    assert.deepEqual([socket.url, socket.protocols], ['ws://localhost:1/__ds', ['datasole.v1', 'datasole.v2']]);
    const seen: unknown[] = [];
    client.onStatus((status) => seen.push(status));
    assert.deepEqual(seen, [{ state: 'connected', protocol: 2, connectionId: 'c1', userId: 'ann' }]);
  });

  it("tells the server's clock", async () => {
    FakeSocket.serve = (socket) => {
      socket.accept('datasole.v2');
      socket.frame(OP.hello, { ...HELLO, time: 1_700_000_000_000 });
    };
    const client = makeClient();
    await client.connect();
    let serverTime: number | undefined;
    client.onStatus((status) => (serverTime = status.serverTime));
    assert.equal(serverTime, 1_700_000_000_000);
  });

  it('asks again for a topic that was refused, with a new connection', async () => {
    const { client, socket } = await connected('v2', { reconnectInterval: 1 });
    const consoleError = console.error;
    console.error = () => {};
    socket.onframe = ({ opcode, correlation }) => {
      if (opcode === OP.subscribe) socket.frame(OP.error, { message: 'no', code: -32603 }, correlation);
    };
    client.on('chat', () => {});
    await settled();
    console.error = consoleError;
    socket.drop(1006);
    while (client.getConnectionState() !== 'connected') await settled();
    await settled();
    assert.deepEqual(sent(FakeSocket.all.at(-1)!, OP.subscribe).map((frame) => frame.payload), [{ kind: 'event', key: 'chat' }]);
  });

  it('carries raw bytes both ways, in calls and events', async () => {
    const { client, socket } = await connected('v2');
    const { onframe } = socket;
    socket.onframe = (frame) => {
      if (frame.opcode !== OP.requestBinary) return onframe!(frame);
      const bytes = [...frame.payload.slice(-2)].reverse();
      socket.frame(OP.responseBinary, binary({ correlationId: frame.correlation }, bytes), frame.correlation);
    };
    const bytes = new Uint8Array([9, 1, 2]).subarray(1);
    const call = client.rpc('reverse', bytes);
    bytes[0] = 7;
    assert.deepEqual(await call, new Uint8Array([2, 1]), 'the bytes are those at the time of the call');
    assert.deepEqual([...bytes], [7, 2], 'and are left alone');
    const events: unknown[] = [];
    client.on('blob', (event) => events.push(event));
    socket.frame(OP.eventBinary, binary({ event: 'blob', timestamp: 5 }, [4, 5, 6]));
    await settled();
    assert.deepEqual(events, [{ event: 'blob', data: new Uint8Array([4, 5, 6]), timestamp: 5 }]);
  });

  it('subscribes once per key, and unsubscribes with the last handler', async () => {
    const { client, socket } = await connected('v2');
    const first = client.subscribeState('board', () => {});
    const second = client.subscribeState('board', () => {});
    client.getState('board');
    await settled();
    assert.deepEqual(sent(socket, OP.subscribe).map((frame) => frame.payload), [{ kind: 'state', key: 'board' }]);
    first.unsubscribe();
    first.unsubscribe();
    await settled();
    assert.equal(sent(socket, OP.unsubscribe).length, 0);
    second.unsubscribe();
    await settled();
    assert.equal(sent(socket, OP.unsubscribe).length, 1);
    assert.equal(client.getState('board'), undefined, 'nobody kept it up to date');
    await settled();
    assert.equal(sent(socket, OP.subscribe).length, 2, 'but asking for it follows it again');
    assert.deepEqual(client.getState('board'), { n: 0, rest: {} });
  });

  it('subscribes topics', async () => {
    const { client, socket } = await connected('v2');
    const handler = () => {};
    client.on('chat', handler);
    client.on('chat', () => {});
    await settled();
    assert.deepEqual(sent(socket, OP.subscribe).map((frame) => frame.payload), [{ kind: 'event', key: 'chat' }]);
    client.off('chat', handler);
    client.off('chat', handler);
    await settled();
    assert.equal(sent(socket, OP.unsubscribe).length, 0);
  });

  it('shows states of every JSON root, and prototype names as data', async () => {
    const { client, socket } = await connected('v2');
    const seen: unknown[] = [];
    client.subscribeState('board', (value) => seen.push(value));
    await settled();
    const roots = [null, 0, '', false, [], JSON.parse('{"__proto__":{"polluted":true},"constructor":1}')];
    for (const [at, data] of roots.entries()) {
      socket.frame(OP.snapshot, { key: 'board', version: 4 + at, data, epoch: 1, seq: 4 + at });
      await settled();
    }
    socket.frame(OP.patch, {
      key: 'board',
      patches: [{ op: 'add', path: '/__proto__/more', value: 1 }],
      epoch: 1,
      seq: 10,
    });
    await settled();
    socket.frame(OP.snapshot, { key: 'board', version: 11, data: null, removed: true, epoch: 1, seq: 11 });
    await settled();
    const patched = '{"__proto__":{"polluted":true,"more":1},"constructor":1}';
    assert.equal(JSON.stringify(seen.slice(2)), JSON.stringify([...roots, JSON.parse(patched), undefined]));
    assert.deepEqual(Object.keys((seen as any[]).at(-2)), ['__proto__', 'constructor']);
    assert.equal(({} as any).polluted, undefined);
  });

  it('shows changes that arrive together once, before the event that follows them', async () => {
    const { client, socket } = await connected('v2');
    const seen: unknown[] = [];
    client.subscribeState('board', (value: any) => seen.push(value?.n));
    client.on('mark', () => seen.push('mark'));
    await settled();
    const patch = (seq: number) =>
      socket.frame(OP.patch, {
        key: 'board',
        patches: [{ op: 'replace', path: '/n', value: seq }],
        epoch: 1,
        seq,
      });
    [4, 5, 6].forEach(patch);
    socket.frame(OP.event, { event: 'mark', data: null, timestamp: 1 });
    [7, 8].forEach(patch);
    await settled();
    assert.deepEqual(seen, [undefined, 0, 6, 'mark', 8]);
  });

  it('resumes after a lost connection, and tells which events were missed', async () => {
    const { client, socket } = await connected('v2', { reconnectInterval: 1 });
    const missed: string[] = [];
    client.onMissed((event) => missed.push(event));
    client.on('chat', () => {});
    client.subscribeState('board', () => {});
    await settled();
    assert.deepEqual(missed, [], 'a first subscription misses nothing');
    const states: string[] = [];
    const back = new Promise<void>((resolve) => {
      client.onStatus(({ state }) => {
        states.push(state);
        if (states.length > 2 && state === 'connected') resolve();
      });
    });
    socket.drop(1006);
    await back;
    await settled();
    assert.deepEqual([...new Set(states)], ['connected', 'reconnecting']);
    const since = sent(FakeSocket.all.at(-1)!, OP.subscribe).map((frame) => frame.payload.since);
    assert.deepEqual(since, [
      { epoch: 1, seq: 3 },
      { epoch: 1, seq: 3 },
    ]);
    assert.deepEqual(missed, ['chat']);
  });

  it('asks for a snapshot when a patch does not fit, and never shows half of it', async () => {
    const { client, socket } = await connected('v2');
    const seen: unknown[] = [];
    client.subscribeState('board', (value) => seen.push(value));
    await settled();
    const patches = [
      { op: 'replace', path: '/n', value: 1 },
      { op: 'remove', path: '/missing' },
    ];
    socket.frame(OP.patch, { key: 'board', patches, epoch: 1, seq: 4 });
    await settled();
    assert.equal(sent(socket, OP.subscribe).length, 2);
    assert.deepEqual(seen, [undefined, { n: 0, rest: {} }, { n: 0, rest: {} }]);
  });

  it('sends long batches as bytes', async () => {
    const { client, socket } = await connected('v2');
    const long = 'ä€😀'.repeat(20_000);
    assert.equal(await client.rpc('echo', long), long);
    const many = await Promise.all(Array.from({ length: 50 }, (_, n) => client.rpc('echo', [n, 'x'.repeat(1_000)])));
    assert.deepEqual(many.map((result: any) => result[0]), [...Array(50).keys()]);
    assert.equal(socket.closedWith, undefined);
  });

  it('cancels on the wire', async () => {
    const { client, socket } = await connected('v2');
    socket.onframe = undefined;
    const abort = new AbortController();
    const call = client.rpc('slow', null, { signal: abort.signal });
    await settled();
    abort.abort('why');
    await assert.rejects(call, { name: 'DatasoleError', code: -32102, cause: 'why' });
    await settled();
    assert.deepEqual(sent(socket, OP.cancel).map((frame) => frame.correlation), [1]);
  });

  it('a text message ends the connection, which is tried again', async () => {
    const { client, socket } = await connected('v2');
    socket.deliver('hello');
    await settled();
    assert.equal(client.getConnectionState(), 'reconnecting');
    assert.equal(socket.closedWith?.code, 4004);
  });
});

describe('calls', () => {
  it('have their deadline in the core', async () => {
    const { client } = await connected('v1');
    await assert.rejects(client.rpc('slow', null, { timeout: 20 }), {
      name: 'DatasoleError',
      message: 'RPC timeout: slow (20ms)',
      code: -32100,
      retryable: true,
    });
  });

  it('queue for the connection when they may', async () => {
    FakeSocket.serve = serveV2;
    const client = makeClient();
    const queued = client.rpc('echo', 'early', { queue: true });
    assert.equal(client.emit('hello', 1, { queue: true }), true);
    await assert.rejects(client.rpc('echo', 'late'), { code: -32103, retryable: true });
    await client.connect();
    assert.equal(await queued, 'early');
    assert.deepEqual(sent(FakeSocket.all[0]!, OP.emitted).map((frame) => frame.payload), [{ event: 'hello', data: 1 }]);
  });

  it('show the error, code and data of the server', async () => {
    const { client, socket } = await connected('v1');
    const call = client.rpc('fail');
    await settled();
    const error = { code: 17, message: 'boom', data: { why: 1 } };
    socket.frame(OP.response, { correlationId: 1, error }, 1);
    await assert.rejects(call, { ...error, name: 'DatasoleError', retryable: false });
  });

  it('resolve with undefined when there is no result, with null when it is null', async () => {
    const { client, socket } = await connected('v1');
    const calls = [client.rpc('void'), client.rpc('null')];
    await settled();
    socket.frame(OP.response, { correlationId: 1 }, 1);
    socket.frame(OP.response, { correlationId: 2, result: null }, 2);
    assert.deepEqual(await Promise.all(calls), [undefined, null]);
  });
});

describe('connecting', () => {
  it('rejects when the first attempt fails and it was told not to reconnect', async () => {
    FakeSocket.serve = (socket) => socket.drop(1006);
    const client = makeClient({ reconnect: false });
    await assert.rejects(client.connect(), { name: 'DatasoleError', code: -32103, retryable: true });
    await settled();
    assert.deepEqual([FakeSocket.all.length, client.getConnectionState()], [1, 'disconnected']);
    FakeSocket.serve = serveV1;
    await client.connect();
    assert.equal(client.getConnectionState(), 'connected');
  });

  it('tries again until a server answers, and what was sent meanwhile arrives', async () => {
    FakeSocket.serve = (socket) => (FakeSocket.all.length < 3 ? socket.drop(1006) : serveV2(socket));
    const client = makeClient({ reconnectInterval: 1 });
    const opened = client.connect();
    assert.equal(client.connect(), opened);
    const call = client.rpc('echo', 'early');
    assert.equal(client.emit('hello', 1), true);
    await opened;
    assert.equal(await call, 'early');
    assert.equal(FakeSocket.all.length, 3);
    assert.deepEqual(sent(FakeSocket.all[2]!, OP.emitted).map(({ payload }) => payload), [{ event: 'hello', data: 1 }]);
  });

  it('rejects when as many attempts have failed as may', async () => {
    FakeSocket.serve = (socket) => socket.drop(1006);
    const client = makeClient({ reconnectInterval: 1, maxReconnectAttempts: 2 });
    await assert.rejects(client.connect(), { name: 'DatasoleError', code: -32103, retryable: true });
    assert.deepEqual([FakeSocket.all.length, client.getConnectionState()], [3, 'disconnected']);
  });

  it('rejects when nothing answers in time', async () => {
    FakeSocket.serve = () => {};
    const client = makeClient({ connectTimeout: 300 });
    await assert.rejects(client.connect(), { name: 'DatasoleError', code: -32100, retryable: true });
    assert.equal(client.getConnectionState(), 'disconnected');
  });

  it('rejects when the socket cannot be made', async () => {
    const client = makeClient({ reconnect: false });
    (globalThis as any).WebSocket = class {
      constructor() {
        throw new SyntaxError('no such protocol');
      }
    };
    await assert.rejects(client.connect(), /no such protocol/);
  });

  it('rejects without a WebSocket, saying what to do', async () => {
    (globalThis as any).WebSocket = undefined;
    await assert.rejects(makeClient().connect(), { code: -32106, message: /globalThis\.WebSocket/ });
  });

  it('rejects when the wasm is missing or something else', async () => {
    for (const file of ['/missing.wasm', fileURLToPath(import.meta.url)]) {
      const client = makeClient({ wasmUrl: file, maxReconnectAttempts: 0 });
      await assert.rejects(client.connect(), { name: 'DatasoleError', code: -32106, message: /wasm/ });
    }
  });

  it('rejects when the url is none', async () => {
    for (const url of ['nonsense', 'ftp://example.org']) {
      await assert.rejects(makeClient({ url }).connect(), { name: 'DatasoleError', code: -32106 });
    }
  });

  it('asks for a token before every attempt', async () => {
    let asked = 0;
    const { socket } = await connected('v1', { getToken: async () => `t${++asked}`, reconnectInterval: 1 });
    assert.equal(socket.url, 'ws://localhost:1/__ds?token=t1');
    socket.drop(4002);
    while (FakeSocket.all.length < 2) await settled();
    assert.equal(FakeSocket.all[1]!.url, 'ws://localhost:1/__ds?token=t2');
  });

  it('fails as unauthorized when there is no token to get', async () => {
    FakeSocket.serve = serveV1;
    const client = makeClient({
      reconnect: false,
      getToken: () => {
        throw new Error('logged out');
      },
    });
    await assert.rejects(client.connect(), { code: -32001, message: /logged out/ });
    assert.equal(FakeSocket.all.length, 0);
  });

  it('keeps the token out of the URL when told to', async () => {
    FakeSocket.serve = (socket) => {
      socket.onframe = ({ opcode, correlation, payload }) => {
        if (opcode !== OP.auth) return;
        assert.deepEqual(payload, { token: 'secret', features: ['batch'] });
        socket.frame(OP.authed, { userId: 'ann' }, correlation);
        socket.frame(OP.hello, HELLO);
      };
      socket.accept('datasole.v2');
    };
    await makeClient({ auth: { token: 'secret', via: 'frame' } }).connect();
    assert.equal(FakeSocket.all[0]!.url, 'ws://localhost:1/__ds?auth=frame');
  });
});

describe('disconnecting', () => {
  it('closes the socket, rejects calls, and goes on from there', async () => {
    const { client, socket } = await connected('v2');
    const seen: unknown[] = [];
    client.subscribeState('board', (value: any) => seen.push(value));
    await settled();
    socket.onframe = undefined;
    const call = client.rpc('slow');
    client.emit('bye');
    await Promise.all([assert.rejects(call, { code: -32104 }), client.disconnect()]);
    assert.equal(sent(socket, OP.emitted).length, 1, 'what was sent before is not lost');
    assert.equal(socket.closedWith?.code, 1000);
    assert.equal(client.getConnectionState(), 'disconnected');
    await client.connect();
    await settled();
    assert.equal(sent(FakeSocket.all.at(-1)!, OP.subscribe).length, 1);
    assert.equal(seen.length, 3);
  });

  it('leaves other clients alone', async () => {
    const one = await connected('v2');
    const other = await connected('v2');
    await one.client.disconnect();
    assert.equal(await other.client.rpc('echo', 1), 1);
  });
});
