// The facade on the real wasm core: both versions of the protocol.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { binary, FakeSocket, HELLO, hex, OP, sent, settled } from './fake-socket.js';
import { connected, makeClient, vector } from './real-core.js';

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

  it('compares contracts, and tells of a difference once on the console', async (t) => {
    const warnings = t.mock.method(console, 'warn', () => {});
    FakeSocket.serve = (socket) => {
      socket.accept('datasole.v2');
      socket.frame(OP.hello, { ...HELLO, contract: 'a1' });
    };
    const seen: unknown[] = [];
    for (const contract of [{ hash: 'a1' }, { hash: 'b2' }, undefined]) {
      const client = makeClient({ contract, reconnectInterval: 1 });
      await client.connect();
      const statuses: (string | undefined)[] = [];
      const again = new Promise<void>((resolve) =>
        client.onStatus(({ state, contract }) => {
          if (state === 'connected' && statuses.push(contract) === 2) resolve();
        }),
      );
      FakeSocket.all.at(-1)!.drop();
      await again;
      seen.push([statuses, warnings.mock.callCount()]);
    }
    assert.deepEqual(seen, [
      [['same', 'same'], 0],
      [['differs', 'differs'], 1],
      [[undefined, undefined], 1],
    ]);
    assert.match(String(warnings.mock.calls[0]!.arguments[0]), /another contract.*datasole types/);
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
    assert.equal(sent(socket, OP.unsubscribe).length, 0, 'there may be another handler soon');
    const third = client.subscribeState('board', () => {});
    await settled();
    assert.equal(sent(socket, OP.subscribe).length, 1, 'which goes on');
    third.unsubscribe();
    const left = performance.now();
    while (!sent(socket, OP.unsubscribe).length) await settled();
    assert.ok(performance.now() - left > 4_900);
    assert.equal(client.getState('board'), undefined, 'nobody kept it up to date');
    await settled();
    assert.equal(sent(socket, OP.subscribe).length, 2, 'but asking for it follows it again');
    assert.deepEqual(client.getState('board'), { n: 0, rest: {} });
  });

  it('follows one more key after 1,200 that were read, followed and left', async () => {
    const { client, socket } = await connected('v2');
    // Our server's bound, which is also the client's.
    const bound = 1_024;
    const followed = new Set<number>();
    let most = 0;
    socket.onframe = ({ opcode, correlation, payload }) => {
      if (opcode === OP.unsubscribe) followed.delete(correlation);
      if (opcode !== OP.subscribe) return;
      followed.add(correlation);
      most = Math.max(most, followed.size);
      if (followed.size > bound) {
        return socket.frame(OP.error, { message: 'too many subscriptions', code: -32004 }, correlation);
      }
      socket.frame(OP.subscribed, { epoch: 1, seq: 3, recovered: false }, correlation);
      socket.frame(OP.snapshot, { key: payload.key, version: 3, data: payload.key, epoch: 1, seq: 3 });
    };
    for (let at = 0; at < 1_200; at++) {
      client.getState(`key ${at}`);
      client.subscribeState(`key ${at}`, () => {}).unsubscribe();
      if (at % 100 === 99) await settled();
    }
    const seen: unknown[] = [];
    client.subscribeState('one more', (value) => seen.push(value));
    await settled();
    assert.deepEqual(seen, [undefined, 'one more']);
    assert.equal(most, bound);
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

describe('half of a surrogate pair', () => {
  const half = '😀'.slice(0, 1);

  it('as a value of calls and events passes as it is', async () => {
    const { client, socket } = await connected('v2');
    const seen: unknown[] = [];
    client.on('chat', ({ data }) => seen.push(data));
    for (const value of [half, { [half]: [half] }]) {
      assert.deepEqual(await client.rpc('echo', value), value);
      assert.ok(client.emit('chat', value));
      await settled();
      assert.deepEqual(sent(socket, OP.emitted).at(-1)!.payload, { event: 'chat', data: value });
      socket.frame(OP.event, { event: 'chat', data: value, timestamp: 1 });
      await settled();
      assert.deepEqual(seen.at(-1), value);
    }
  });

  it('in a name is sent as U+FFFD, and harms no other', async () => {
    const { client, socket } = await connected('v2');
    const seen: unknown[] = [];
    client.on(half, () => {});
    client.on('chat', ({ data }) => seen.push(data));
    client.subscribeState(half, () => {});
    client.subscribeState('board', (value) => seen.push(value));
    client.presence(half).join(1);
    client.emit(half, 1);
    assert.equal(await client.rpc(half, 1), 1);
    await settled();
    const keys = sent(socket, OP.subscribe).map(({ payload }) => `${payload.kind} ${payload.key}`);
    assert.deepEqual(keys, ['event \ufffd', 'event chat', 'state \ufffd', 'state board', 'presence \ufffd']);
    assert.equal(sent(socket, OP.presence)[0]!.payload.key, '\ufffd');
    assert.equal(sent(socket, OP.emitted)[0]!.payload.event, '\ufffd');
    assert.equal(sent(socket, OP.request)[0]!.payload.method, '\ufffd');
    socket.frame(OP.event, { event: '\ufffd', data: 1, timestamp: 1 });
    socket.frame(OP.event, { event: 'chat', data: 2, timestamp: 1 });
    assert.equal(await client.rpc('echo', 3), 3);
    assert.deepEqual([seen, client.getConnectionState()], [[undefined, { n: 0, rest: {} }, 2], 'connected']);
  });
});
