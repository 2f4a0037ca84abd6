// CRDTs and presence on channels whose other end is the test.
import assert from 'node:assert/strict';
import { before, describe, it, mock } from 'node:test';
import type { Channel, ChannelHandlers } from '../src/channel.js';
import { PNCounter, type CrdtOperation, type CrdtState } from '../src/crdt/index.js';
import { CrdtStore } from '../src/crdt/store.js';
import { DatasoleError, ErrorCode } from '../src/errors.js';
import { Room } from '../src/presence.js';

/** What was submitted, and how to answer it. */
interface Submitted {
  data: any;
  done(): void;
  fail(code: number, retryAfter?: number): void;
}

class FakeChannel implements Channel {
  readonly submitted: Submitted[] = [];
  closed = false;

  constructor(readonly handlers: ChannelHandlers) {}

  submit(data?: unknown): Promise<void> {
    return new Promise((resolve, reject) => {
      const fail = (code: number, retryAfter?: number) =>
        reject(new DatasoleError({ code, message: 'no', retryable: false, retryAfter }));
      this.submitted.push({ data: structuredClone(data), done: resolve, fail });
    });
  }

  notify(): void {}

  close(): void {
    this.closed = true;
  }

  /** What was submitted since the last look. */
  take(): Submitted[] {
    return this.submitted.splice(0);
  }
}

/** A store, and the channel of the last key that was registered. */
function makeStore(options: { plain?: boolean; saved?: string } = {}) {
  const channels: FakeChannel[] = [];
  const saved: (string | undefined)[] = [];
  const open = (_: string, handlers: ChannelHandlers) => {
    channels.push(new FakeChannel(handlers));
    return channels.at(-1)!;
  };
  const storage = { load: () => options.saved, save: (_: string, text?: string) => void saved.push(text) };
  const store = new CrdtStore({ open, now: () => 1000, plain: () => !!options.plain, storage }, 'app');
  return { store, saved, channel: () => channels.at(-1)! };
}

const turn = () => new Promise((resolve) => setImmediate(resolve));
let reported: any[] = [];

before(() => {
  globalThis.reportError = (error: unknown) => void reported.push(error);
});

describe('a store', () => {
  it('names its replicas after the application, and never twice the same', () => {
    const [a, b] = [makeStore().store, makeStore().store].map((store) => store.register('k', 'pn-counter').nodeId);
    assert.match(a!, /^app\.\w{12,}$/);
    assert.notEqual(a, b);
  });

  it('has one object for a key, of one type', () => {
    const { store } = makeStore();
    const map = store.register('k', 'lww-map');
    assert.equal(store.register('k', 'lww-map'), map);
    assert.equal(store.get('k'), map);
    assert.throws(() => store.register('k', 'or-set'), TypeError);
    assert.throws(() => store.register('x', 'toString' as any), TypeError);
    assert.equal(store.get('x'), undefined);
  });

  it('sends operations by itself, tells of them, and does not mind being told to', async () => {
    const { store, channel } = makeStore();
    const [ops, pending]: [unknown[], number[]] = [[], []];
    store.onOps((one) => ops.push(one));
    store.onPending((count) => pending.push(count));
    const votes = store.register('votes', 'pn-counter');
    const op = votes.increment(5);
    store.queueOperation(op);
    assert.deepEqual([votes.value(), votes.pending, store.pending], [5, 1, 1]);
    assert.deepEqual(ops, [{ key: 'votes', op }]);
    assert.equal(store.drainPendingOps().length, 1);
    const sent = channel().take();
    assert.deepEqual(sent.map(({ data }) => data.counter), [1]);
    sent[0]!.done();
    await turn();
    assert.deepEqual([votes.value(), store.pending], [5, 0]);
    assert.deepEqual(pending, [0, 1, 0]);
  });

  it('keeps 64 operations under way, in order', async () => {
    const { store, channel } = makeStore();
    const votes = store.register('votes', 'pn-counter');
    for (let count = 0; count < 100; count++) votes.increment();
    const sent = channel().take();
    assert.equal(sent.length, 64);
    sent[0]!.done();
    await turn();
    assert.deepEqual(channel().take().map(({ data }) => data.counter), [65]);
  });

  it('sends again what the server has not, after its state', async () => {
    const { store, channel } = makeStore();
    const votes = store.register('votes', 'pn-counter');
    const ops = [votes.increment(1), votes.increment(10), votes.increment(100)];
    for (const { fail } of channel().take()) fail(ErrorCode.ConnectionLost);
    await turn();
    assert.deepEqual(channel().take(), []);
    channel().handlers.subscribed(false);
    assert.deepEqual(channel().take(), []);
    const server = new PNCounter('server');
    server.increment(1000);
    server.apply(ops[0]!);
    channel().handlers.entry(JSON.parse(JSON.stringify(server.state())), true);
    assert.deepEqual(channel().take().map(({ data }) => [data.counter, data.done]), [[2, 1], [3, 1]]);
    assert.deepEqual([votes.value(), votes.pending], [1111, 2]);
  });

  it('counts nothing twice, whatever comes again', async () => {
    const { store, channel } = makeStore();
    const votes = store.register('votes', 'pn-counter');
    const op = votes.increment(5);
    const [sent] = channel().take();
    for (let times = 0; times < 3; times++) channel().handlers.entry(structuredClone(op), false);
    sent!.done();
    await turn();
    assert.deepEqual([votes.value(), votes.pending], [5, 0]);
  });

  it('takes a refused operation back, tells why, and fills its place', async () => {
    const { store, channel } = makeStore();
    const votes = store.register('votes', 'pn-counter');
    votes.increment(5);
    votes.increment(1);
    reported = [];
    channel().take()[0]!.fail(ErrorCode.Forbidden);
    await turn();
    assert.equal(votes.value(), 1);
    assert.equal(reported[0].code, ErrorCode.Forbidden);
    const [none] = channel().take();
    assert.deepEqual([none!.data.op, none!.data.counter], ['none', 1]);
    none!.fail(ErrorCode.Forbidden);
    await turn();
    assert.equal(store.pending, 1);
  });

  it('tries again what the server has no room for now', async () => {
    const { store, channel } = makeStore();
    const votes = store.register('votes', 'pn-counter');
    votes.increment(5);
    mock.timers.enable({ apis: ['setTimeout'] });
    channel().take()[0]!.fail(ErrorCode.Limit, 200);
    await turn();
    mock.timers.tick(199);
    assert.deepEqual(channel().take(), []);
    mock.timers.tick(1);
    assert.equal(channel().take().length, 1);
    mock.timers.reset();
    assert.equal(votes.value(), 5);
  });

  it('follows the server where it corrects a clock', () => {
    const { store, channel } = makeStore();
    const title = store.register('title', 'lww-register');
    const op = title.set('mine', 9_000_000);
    channel().handlers.entry({ ...op, timestamp: 2000 }, false);
    channel().handlers.entry({ ...op, nodeId: 'other', timestamp: 3000, value: 'theirs' }, false);
    assert.equal(title.value(), 'theirs');
  });

  it('is not harmed by what makes no sense', () => {
    const { store, channel } = makeStore();
    const votes = store.register('votes', 'pn-counter');
    const op = votes.increment(5);
    const other = { ...op, nodeId: 'other' };
    const bad = [{ value: NaN }, { value: 1e300 }, { value: '1' }, { counter: 0 }, { type: 'g-set' }, { op: 'set' }];
    for (const part of bad) assert.equal(votes.apply({ ...other, ...part } as CrdtOperation), false);
    for (const state of [{}, { type: 'pn-counter' }, { ...votes.state(), metadata: 1 }, []]) {
      channel().handlers.entry(state, true);
      assert.equal(votes.merge(state as CrdtState), false);
    }
    assert.equal(votes.value(), 5);
    for (const by of [NaN, 0, -1, 1.5, Infinity, '1' as any]) assert.throws(() => votes.increment(by), TypeError);
    assert.equal(votes.value(), 5);
  });

  it('takes any key and any JSON', () => {
    const { store } = makeStore();
    const map = store.register('map', 'lww-map');
    map.set('__proto__', { polluted: true });
    assert.deepEqual(Object.keys(map.value()), ['__proto__']);
    assert.equal(({} as any).polluted, undefined);
    map.delete('__proto__');
    assert.deepEqual([map.has('__proto__'), map.value()], [false, {}]);
    const set = store.register('set', 'or-set');
    set.add({ b: 1, a: [null] });
    set.add({ a: [null], b: 1 });
    assert.deepEqual([set.value().length, set.has({ a: [null], b: 1 })], [1, true]);
    set.delete({ a: [null], b: 1 });
    assert.deepEqual(set.value(), []);
    assert.throws(() => map.set(1 as any, 1), TypeError);
  });

  it('saves what was not sent, and sends it after a reload', async () => {
    const before = makeStore();
    before.store.register('votes', 'pn-counter').increment(5);
    await turn();
    const { store, saved, channel } = makeStore({ saved: before.saved.at(-1) });
    const votes = store.register('votes', 'pn-counter');
    await turn();
    assert.deepEqual([votes.value(), votes.pending], [5, 1]);
    const [sent] = channel().take();
    channel().handlers.entry(sent!.data, false);
    sent!.done();
    await turn();
    assert.deepEqual([votes.value(), votes.pending, saved.at(-1)], [5, 0, undefined]);
  });

  it('takes the word of a version 1 server, and keeps what is later', async () => {
    const { store, channel } = makeStore({ plain: true });
    const votes = store.register('votes', 'pn-counter');
    votes.increment(5);
    channel().handlers.subscribed(false);
    for (const { done } of channel().take()) done();
    await turn();
    assert.deepEqual([votes.value(), votes.pending], [5, 0]);
    const metadata = { type: 'pn-counter', nodeId: 'b', timestamp: 1, version: 1 };
    const vector = { increments: { b: 3, [votes.nodeId]: 5 }, decrements: { b: 1 } };
    channel().handlers.entry({ type: 'pn-counter', value: 7, metadata: { ...metadata, vector } }, true);
    assert.equal(votes.value(), 7);
  });

  it('tells subscribers at once, and then once for what comes together', async () => {
    const { store } = makeStore();
    const votes = store.register('votes', 'pn-counter');
    const seen: number[] = [];
    const { unsubscribe } = votes.subscribe((value) => seen.push(value));
    votes.increment();
    votes.increment();
    await turn();
    unsubscribe();
    votes.increment();
    await turn();
    assert.deepEqual(seen, [0, 2]);
  });
});

describe('a room', () => {
  function makeRoom() {
    const channels: FakeChannel[] = [];
    const open = (handlers: ChannelHandlers) => {
      channels.push(new FakeChannel(handlers));
      return channels.at(-1)!;
    };
    return { room: new Room({ open, self: () => 'c1' }, { throttle: 50 }), channel: () => channels.at(-1)!, channels };
  }

  const values = (channel: FakeChannel) => channel.take().map(({ data }) => data);

  it('announces at once, then at most once in a while, the last value always', () => {
    mock.timers.enable({ apis: ['setTimeout'] });
    const { room, channel } = makeRoom();
    room.join(1);
    room.update(2);
    room.update(3);
    assert.deepEqual(values(channel()), [1]);
    mock.timers.tick(50);
    assert.deepEqual(values(channel()), [3]);
    mock.timers.tick(50);
    assert.deepEqual(values(channel()), []);
    room.update(4);
    assert.deepEqual(values(channel()), [4]);
    room.update(5);
    room.leave();
    mock.timers.tick(100);
    assert.deepEqual(values(channel()), [undefined]);
    mock.timers.reset();
  });

  it('joins again on every connection', () => {
    mock.timers.enable({ apis: ['setTimeout'] });
    const { room, channel } = makeRoom();
    room.join(null);
    mock.timers.tick(50);
    channel().handlers.subscribed(false);
    assert.deepEqual(values(channel()), [null, null]);
    room.leave();
    mock.timers.tick(50);
    assert.ok(channel().closed);
    mock.timers.reset();
  });

  it('lists who is there', () => {
    const { room, channel, channels } = makeRoom();
    const seen: unknown[] = [];
    const { unsubscribe } = room.subscribe((members) => seen.push(members.map(({ id, value, self }) => [id, value, self])));
    const [ann, bob] = [{ id: 'c1', userId: 'ann', value: 1 }, { id: 'c2', userId: 'bob', value: null }];
    channel().handlers.entry([ann, bob], true);
    channel().handlers.entry([{ id: 'c1', userId: 'ann' }], false);
    channel().handlers.entry([ann], true);
    assert.deepEqual(seen, [[], [['c1', 1, true], ['c2', null, false]], [['c2', null, false]], [['c1', 1, true]]]);
    assert.equal(room.members.length, 1);
    unsubscribe();
    assert.ok(channel().closed);
    room.subscribe(() => {});
    assert.equal(channels.length, 2);
  });
});
