// CRDTs and presence on streams whose other end is the test.
import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';
import { CrdtStore, LWWMap, LWWRegister, ORSet, PNCounter, type CrdtOperation, type CrdtState } from '../src/crdt/index.js';
import { ErrorCode } from '../src/errors.js';
import { Room } from '../src/presence.js';
import type { StreamCommand, StreamMessage, StreamName, ToWorker } from '../src/protocol.js';
import { Streams } from '../src/streams.js';

/** Streams, and what was sent to the core. */
class FakeCore {
  sent: (StreamName & StreamCommand)[] = [];
  readonly streams = new Streams((message: ToWorker) => this.sent.push(message as StreamName & StreamCommand));

  constructor(readonly name: StreamName) {}

  /** What was sent since the last look. */
  take(): (StreamName & StreamCommand)[] {
    return this.sent.splice(0);
  }

  /** The operations among them, and their numbers. */
  edits(): { id: number; op: CrdtOperation }[] {
    return this.take().flatMap((one) => (one.t === 'edit' ? [{ id: one.id, op: published(one.json!) }] : []));
  }

  /** As it comes from the worker. */
  say(t: StreamMessage['t'], members: object): void {
    this.streams.receive(JSON.parse(JSON.stringify({ t, ...this.name, rev: 0, ...members })), []);
  }
}

/** An operation as the server publishes it: without the secret. */
function published(json: string): CrdtOperation {
  const { secret, ...op } = JSON.parse(json);
  assert.match(secret, /^\w{12,}$/);
  return op;
}

/** A store, and the core of the key `k`. */
function makeStore(options: { saved?: string } = {}) {
  const core = new FakeCore({ kind: 'crdt', key: 'k' });
  const saved: (string | undefined)[] = [];
  const storage = { load: () => options.saved, save: (_: string, text?: string) => void saved.push(text) };
  const store = new CrdtStore('app', { streams: core.streams, now: () => 1000, storage });
  return { store, saved, core };
}

const REFUSED = { code: ErrorCode.Forbidden, message: 'no', retryable: false };
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

  it('hands operations over by itself, with the secret, and keeps those that the application carries', async () => {
    const { store, core } = makeStore();
    const [ops, pending]: [unknown[], number[]] = [[], []];
    store.onOps((some) => ops.push(some));
    store.onPending((count) => pending.push(count));
    const votes = store.register('k', 'pn-counter');
    const op = votes.increment(5);
    store.queueOperation(op);
    assert.deepEqual([votes.value(), votes.pending, store.pending], [5, 1, 1]);
    assert.deepEqual([ops, store.drainPendingOps(), store.drainPendingOps()], [[[op]], [op], []]);
    const name = { kind: 'crdt', key: 'k' };
    const sent = core.take();
    const { secret } = JSON.parse((sent[1] as { json: string }).json);
    assert.match(secret, /^\w{12,}$/);
    assert.equal('secret' in op, false);
    assert.deepEqual(sent, [
      { ...name, t: 'open', throttle: undefined },
      { ...name, t: 'edit', id: 1, json: JSON.stringify({ secret, ...op }) },
    ]);
    await turn();
    core.say('settled', { id: 1, returns: true });
    await turn();
    assert.deepEqual([votes.value(), store.pending], [5, 0]);
    assert.deepEqual(pending, [0, 1, 0]);
  });

  it('is pending until everything is settled, and keeps on top what has still to come', async () => {
    const { store, core, saved } = makeStore();
    const votes = store.register('k', 'pn-counter');
    for (const by of [1, 10, 100]) votes.increment(by);
    assert.equal(store.pending, 3);
    const [one, , three] = core.edits();
    core.say('settled', { id: 1, returns: true });
    core.say('settled', { id: 1, returns: true });
    assert.equal(store.pending, 2);
    const server = new PNCounter('server');
    server.increment(1000);
    core.say('entry', { data: server.state(), whole: true });
    assert.deepEqual([votes.value(), store.pending], [1111, 2]);
    await turn();
    assert.equal(JSON.parse(saved.at(-1)!).length, 3);
    // The entry before its outcome, and an outcome without an entry.
    core.say('entry', { data: three!.op });
    assert.deepEqual([votes.value(), store.pending], [1111, 1]);
    core.say('settled', { id: 3, returns: true });
    core.say('settled', { id: 2, returns: false });
    assert.deepEqual([votes.value(), store.pending], [1111, 0]);
    // What is shown is made anew.
    votes.increment(7);
    core.say('settled', { id: 4, error: REFUSED });
    assert.deepEqual([votes.value(), store.pending], [1111, 0]);
    core.say('entry', { data: one!.op });
    await turn();
    assert.deepEqual([votes.value(), store.pending, saved.at(-1)], [1111, 0, undefined]);
  });

  it('counts nothing twice, whatever comes again', async () => {
    const { store, core } = makeStore();
    const votes = store.register('k', 'pn-counter');
    const op = votes.increment(5);
    for (let times = 0; times < 3; times++) core.say('entry', { data: op });
    core.say('settled', { id: 1, returns: true });
    assert.deepEqual([votes.value(), votes.pending], [5, 0]);
    assert.deepEqual(core.take().map(({ t }) => t), ['open', 'edit']);
  });

  it('takes a refused operation back, and tells why', () => {
    const { store, core } = makeStore();
    const votes = store.register('k', 'pn-counter');
    votes.increment(5);
    votes.increment(1);
    reported = [];
    core.say('rejected', { error: REFUSED });
    core.say('settled', { id: 1, error: REFUSED });
    assert.deepEqual([votes.value(), votes.pending], [1, 1]);
    assert.deepEqual(reported.map(({ code, message }) => [code, message]), [[ErrorCode.Forbidden, 'crdt k: no']]);
  });

  it('tells once that it is refused', () => {
    const { store, core } = makeStore();
    store.register('k', 'pn-counter');
    reported = [];
    const progress = { phase: 'unreadable', pending: 0, stored: 0, error: REFUSED };
    core.say('progress', progress);
    core.say('progress', { ...progress, pending: 1 });
    assert.equal(reported.length, 1);
    core.say('progress', { ...progress, phase: 'synced', error: undefined });
    core.say('progress', progress);
    assert.equal(reported.length, 2);
  });

  it('says when an entry does not fit, and whether one did before', () => {
    const { store, core } = makeStore();
    const votes = store.register('k', 'pn-counter');
    const op = votes.increment(5);
    core.take();
    for (const data of [null, 1, {}, { ...op, nodeId: 'other', type: 'g-set' }]) core.say('entry', { data });
    core.say('entry', { data: op });
    core.say('entry', { data: { type: 'lww-map' }, whole: true });
    assert.deepEqual(
      core.take().map((one) => one.t === 'unfit' && one.applied),
      [false, false, false, false, true],
    );
    assert.equal(votes.value(), 5);
  });

  it('follows the server where it corrects a clock', () => {
    const { store, core } = makeStore();
    const title = store.register('k', 'lww-register');
    const op = title.set('mine', 9_000_000);
    core.say('entry', { data: { ...op, timestamp: 2000 } });
    core.say('entry', { data: { ...op, nodeId: 'other', timestamp: 3000, value: 'theirs' } });
    assert.equal(title.value(), 'theirs');
  });

  it('hands everything that is not settled to a new core', () => {
    const { store, core } = makeStore();
    const votes = store.register('k', 'pn-counter');
    votes.increment(1);
    votes.increment(10);
    core.say('settled', { id: 1, returns: true });
    core.take();
    core.streams.renew();
    const [open, ...edits] = core.take();
    assert.deepEqual([open!.t, edits.map((one) => one.t === 'edit' && one.id)], ['open', [1, 2]]);
    core.say('settled', { id: 1, returns: true });
    assert.equal(votes.pending, 1);
  });

  it('is not harmed by what makes no sense', () => {
    const { store, core } = makeStore();
    const votes = store.register('k', 'pn-counter');
    const op = votes.increment(5);
    const other = { ...op, nodeId: 'other' };
    const bad = [{ value: NaN }, { value: 1e300 }, { value: '1' }, { counter: 0 }, { type: 'g-set' }, { op: 'set' }];
    for (const part of bad) assert.equal(votes.apply({ ...other, ...part } as CrdtOperation), false);
    for (const state of [{}, { type: 'pn-counter' }, { ...votes.state(), metadata: 1 }, []]) {
      core.say('entry', { data: state, whole: true });
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
    before.store.register('k', 'pn-counter').increment(5);
    await turn();
    const { store, saved, core } = makeStore({ saved: before.saved.at(-1) });
    const [{ secret }] = JSON.parse(before.saved.at(-1)!);
    const votes = store.register('k', 'pn-counter');
    votes.increment(1);
    await turn();
    assert.deepEqual([votes.value(), votes.pending], [6, 2]);
    const sent = core.take();
    const secrets = sent.flatMap((one) => (one.t === 'edit' ? [JSON.parse(one.json!).secret === secret] : []));
    assert.deepEqual(secrets, [false, true], 'an heir shows the secret of the replica');
    const edits = sent.flatMap((one) => (one.t === 'edit' ? [{ id: one.id, op: published(one.json!) }] : []));
    assert.deepEqual(edits.map(({ id, op }) => [id, op.counter, op.nodeId === votes.nodeId]), [[1, 1, true], [2, 1, false]]);
    for (const { id, op } of edits) {
      core.say('entry', { data: op });
      core.say('settled', { id, returns: true });
    }
    await turn();
    assert.deepEqual([votes.value(), votes.pending, saved.at(-1)], [6, 0, undefined]);
  });

  it('leaves the storage alone until what it has was loaded', async () => {
    const before = makeStore();
    before.store.register('k', 'pn-counter').increment(5);
    await turn();
    const stored = before.saved.at(-1)!;
    const core = new FakeCore({ kind: 'crdt', key: 'k' });
    const saved: (string | undefined)[] = [];
    let loaded!: (text: string) => void;
    const load = () => new Promise<string>((resolve) => (loaded = resolve));
    const storage = { load, save: (_: string, text?: string) => void saved.push(text) };
    const votes = new CrdtStore('app', { streams: core.streams, now: () => 1000, storage }).register('k', 'pn-counter');
    votes.increment(1);
    await turn();
    assert.deepEqual([saved, votes.value()], [[], 1]);
    loaded(stored);
    await turn();
    assert.deepEqual([JSON.parse(saved.at(-1)!).length, votes.value()], [2, 6]);
  });

  it('gives every key a name of its own, that the others do not tell', () => {
    const { store } = makeStore();
    const [a, b] = ['a', 'b'].map((key) => store.register(key, 'pn-counter').nodeId);
    assert.notEqual(a, b);
    assert.match(b!, /^app\.\w{12,}$/);
  });

  it('finds and removes what JSON makes of a value', () => {
    const { store } = makeStore();
    for (const type of ['g-set', 'or-set'] as const) {
      const set = store.register<typeof type, any>(type, type);
      const date = new Date(5);
      for (const value of [{ id: 1, note: undefined }, date, [1, undefined], { toJSON: () => 'x' }, undefined, NaN, { 10: 1, 9: 2 }]) {
        set.add(value);
        assert.equal(set.has(value), true);
        assert.equal(set.has(JSON.parse(JSON.stringify(value) ?? 'null')), true);
        if (!('delete' in set)) continue;
        set.delete(value);
        assert.equal(set.has(value), false);
        assert.deepEqual(set.value(), []);
      }
      assert.throws(() => set.add(1n), TypeError);
      assert.throws(() => set.has(1n), TypeError);
    }
  });

  it('is of use without a client', () => {
    const [a, b] = [new CrdtStore('a'), new CrdtStore('b')];
    const carried: CrdtOperation[] = [];
    a.onOps((ops) => ops.forEach((op) => b.applyRemote('votes', op) && carried.push(op)));
    const votes = a.register('votes', 'pn-counter');
    const theirs = b.register('votes', 'pn-counter');
    a.queueOperation(votes.increment(3));
    assert.deepEqual([votes.nodeId, votes.value(), theirs.value(), a.pending], ['a', 3, 3, 0]);
    assert.deepEqual([a.drainPendingOps(), a.drainPendingOps()], [carried, []]);
    theirs.decrement(1);
    assert.equal(a.mergeRemoteState('votes', b.snapshot().votes!), true);
    assert.deepEqual([votes.value(), a.get('votes'), a.mergeRemoteState('x', theirs.state())], [2, votes, false]);
    assert.equal(a.register('r', 'lww-register', 'initial').value(), 'initial');
  });

  it('takes operations of version 1, which have no number', () => {
    const from = { nodeId: 'old', timestamp: 7 };
    const counter = new PNCounter('me');
    const [up, down] = [
      { ...from, type: 'pn-counter', op: 'increment', value: 2 } as const,
      { ...from, type: 'pn-counter', op: 'decrement', value: 5 } as const,
    ];
    assert.deepEqual([counter.apply(up), counter.apply(up), counter.apply(down), counter.value()], [true, true, true, -1]);
    assert.equal(counter.apply({ ...up, value: -3 }), true);
    assert.deepEqual([counter.value(), counter.vector()], [-4, { increments: { old: 4 }, decrements: { old: 8 } }]);
    assert.equal(counter.apply({ ...up, nodeId: 'me' }), false, 'the own one, come back');
    const state = { type: 'pn-counter', value: -4, metadata: { ...from, type: 'pn-counter', version: 4, vector: counter.vector() } };
    assert.deepEqual([counter.merge(state as CrdtState), counter.value()], [true, -4]);
    const register = new LWWRegister<string>('me');
    const set = (value: string) => register.apply({ ...from, type: 'lww-register', op: 'set', value });
    assert.deepEqual([set('b'), set('a'), register.value()], [true, true, 'a'], 'the later arrival');
    const map = new LWWMap('me');
    assert.equal(map.apply({ ...from, type: 'lww-map', op: 'set', key: 'k', value: 1 }), true);
    assert.equal(map.apply({ ...from, type: 'lww-map', op: 'remove', key: 'k' }), true);
    assert.deepEqual(map.value(), {});
    const tags = new ORSet<string>('me');
    tags.add('x');
    assert.equal(tags.apply({ ...from, type: 'or-set', op: 'remove', value: 'x' }), true);
    assert.deepEqual(tags.value(), []);
    for (const bad of [{}, { ...up, type: 'g-set' }, { ...up, timestamp: -1 }, { ...up, nodeId: 1 }]) {
      assert.equal(counter.apply(bad as CrdtOperation), false);
    }
  });

  it('counts exactly where sums leave the range on the way', () => {
    const counter = new PNCounter('me');
    const by = (nodeId: string, op: string, value: number) =>
      counter.apply({ nodeId, op, value, type: 'pn-counter', counter: 1, timestamp: 1 } as CrdtOperation);
    const most = Number.MAX_SAFE_INTEGER;
    assert.deepEqual([by('a', 'increment', most), by('b', 'decrement', most - 3), by('c', 'increment', most - 3)], [true, true, true]);
    const other = new PNCounter('other');
    assert.deepEqual([counter.value(), other.merge(counter.state()), other.value()], [most, true, most]);
    assert.equal(by('d', 'increment', 1), false, 'above');
  });

  it('takes the word of a version 1 server, and keeps what is later', () => {
    const { store, core } = makeStore();
    const votes = store.register('k', 'pn-counter');
    votes.increment(5);
    core.say('settled', { id: 1, returns: false });
    assert.deepEqual([votes.value(), votes.pending], [5, 0]);
    const metadata = { type: 'pn-counter', nodeId: 'b', timestamp: 1, version: 1 };
    const vector = { increments: { b: 3, [votes.nodeId]: 5 }, decrements: { b: 1 } };
    core.say('entry', { data: { type: 'pn-counter', value: 7, metadata: { ...metadata, vector } }, whole: true });
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
    const core = new FakeCore({ kind: 'presence', key: 'r' });
    const room = new Room((room) => core.streams.open(core.name, room, 20));
    /** What was sent, in short. */
    const sent = () => core.take().map((one) => (one.t === 'show' ? [one.json] : one.t));
    return { room, core, sent };
  }

  it('is open while this client is a member or somebody listens, and shows values', () => {
    const { room, sent } = makeRoom();
    room.join(null);
    assert.deepEqual(sent(), ['open', ['null']]);
    room.update({ name: 'Ann' });
    assert.deepEqual(sent(), [['{"name":"Ann"}']]);
    const { unsubscribe } = room.subscribe(() => {});
    room.leave();
    room.leave();
    assert.deepEqual(sent(), [[undefined]]);
    room.join(1);
    unsubscribe();
    assert.deepEqual(sent(), [['1']]);
    room.leave();
    assert.deepEqual(sent(), [[undefined], 'leave']);
    room.join(undefined);
    assert.deepEqual(sent(), ['open', ['null']]);
  });

  it('refuses what is no JSON, and is as it was', () => {
    const { room, core, sent } = makeRoom();
    room.join(1);
    assert.throws(() => room.join(1n), TypeError);
    assert.throws(() => room.update({ toJSON: () => { throw new TypeError('no'); } }), TypeError);
    sent();
    core.streams.renew();
    assert.deepEqual(sent(), ['open', ['1']]);
    const { room: empty, sent: nothing } = makeRoom();
    assert.throws(() => empty.join(1n), TypeError);
    assert.deepEqual(nothing(), []);
  });

  it('is entered again in a new core', () => {
    const { room, core, sent } = makeRoom();
    room.join(1);
    room.update(2);
    sent();
    core.streams.renew();
    assert.deepEqual(sent(), ['open', ['2']]);
    room.leave();
    sent();
    core.streams.renew();
    assert.deepEqual(sent(), []);
  });

  it('lists who is there', () => {
    const { room, core } = makeRoom();
    const seen: unknown[] = [];
    const { unsubscribe } = room.subscribe((members) => seen.push(members.map(({ id, value, self }) => [id, value, self])));
    const [ann, bob] = [{ id: 'c1', userId: 'ann', value: 1, own: true }, { id: 'c2', userId: 'bob', value: null }];
    core.say('entry', { data: [ann, bob], whole: true });
    core.say('entry', { data: [{ id: 'c1', userId: 'ann' }] });
    core.say('entry', { data: [ann], whole: true });
    assert.deepEqual(seen, [[], [['c1', 1, true], ['c2', null, false]], [['c2', null, false]], [['c1', 1, true]]]);
    assert.equal(room.members.length, 1);
    core.say('entry', { data: [{ id: 'c1' }, { ...ann, id: 'c3' }] });
    assert.deepEqual(seen.at(-1), [['c3', 1, true]], 'the own value of the next connection');
    unsubscribe();
    core.say('entry', { data: [ann], whole: true });
    assert.deepEqual(room.members, [], 'nobody keeps them up to date');
  });
});
