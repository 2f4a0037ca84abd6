// Rooms, CRDTs, pending things and the connection as readables, and states that a server has rendered, against a worker that is the test.
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it, mock } from 'node:test';
import * as Y from 'yjs';
import { connection, live, lost, me, members, others, pendings, replica, seed, type Readable } from '../src/live.js';
import type { FromWorker } from '../src/protocol.js';
import { DatasoleProvider } from '../src/yjs.js';
import { openDocument } from '../src/documents.js';
import { clients, CONNECTED, connected, FakeWorker, makeClient, ready, settled } from './fake-worker.js';

/** What a readable showed after each change. */
function watch<T>({ subscribe, getSnapshot }: Readable<T>): { seen: T[]; end(): void } {
  const seen: T[] = [];
  return { seen, end: subscribe(() => seen.push(getSnapshot())) };
}

const RECONNECTING: FromWorker = { t: 'status', state: 'reconnecting', attempt: 1, reason: { kind: 'closed', message: '' } };

describe('a room', () => {
  beforeEach(() => mock.timers.enable({ apis: ['setTimeout'] }));
  afterEach(() => mock.timers.reset());
  /** Until the timers of this turn have run, and what they sent has arrived. */
  const turn = async () => (mock.timers.tick(0), await settled());

  const entry = (whole: boolean, ...data: unknown[]): FromWorker =>
    ({ t: 'entry', kind: 'presence', key: 'r', rev: 1, data, ...(whole ? { whole } : {}) }) as FromWorker;
  const member = (id: string, value: unknown, own?: boolean) => ({ id, userId: 'u', value, ...(own ? { own } : {}) });

  it('shows all members, and the others, who do not change with this client', async () => {
    const { client, worker } = await connected();
    const room = client.presence('r');
    const [all, rest] = [watch(members(room)), watch(others(room))];
    worker.say(entry(true, member('c1', 1, true), member('c2', 1)));
    worker.say(entry(false, member('c1', 2, true)));
    worker.say(entry(false, member('c2', 3)));
    assert.deepEqual(all.seen.map((list) => list.map(({ value }) => value)), [[1, 1], [2, 1], [2, 3]]);
    assert.deepEqual(rest.seen.map((list) => list.map(({ value }) => value)), [[1], [3]]);
    assert.equal(others(room).getSnapshot(), rest.seen[1]);
    all.end();
    rest.end();
  });

  it('that is left and entered within a turn stays open', async () => {
    const { client, worker } = await connected();
    const room = client.presence<{ n: number; m?: number }>('r');
    const own = me(room);
    watch(members(room)).end();
    const again = watch(members(room));
    own.enter({ n: 1 })();
    const leave = own.enter({ n: 2 });
    assert.deepEqual(own.getSnapshot(), { n: 1 });
    own.update({ m: 3 });
    assert.deepEqual(own.getSnapshot(), { n: 1, m: 3 });
    again.end();
    await turn();
    assert.deepEqual([worker.of('open').length, worker.of('leave').length], [1, 0]);
    assert.deepEqual(worker.of('show').map(({ json }) => json), ['{"n":1}', '{"n":1,"m":3}']);
    leave();
    leave();
    await turn();
    assert.deepEqual([own.getSnapshot(), worker.of('leave').length], [undefined, 1]);
  });

  it('is left with the last who entered', async () => {
    const { client, worker } = await connected();
    const own = me(client.presence<number>('r'));
    const leave = [own.enter(1), own.enter(2)];
    leave[0]!();
    await turn();
    assert.deepEqual([own.getSnapshot(), worker.of('leave').length], [1, 0]);
    leave[1]!();
    await turn();
    assert.deepEqual([own.getSnapshot(), worker.of('leave').length], [undefined, 1]);
    // What is changed by a component that is mounted before the one that enters counts.
    own.update(7);
    assert.equal(own.getSnapshot(), undefined, 'nobody is in the room yet');
    own.enter(1);
    assert.equal(own.getSnapshot(), 7);
  });

  it('takes no value of those who have left it', async () => {
    const { client, worker } = await connected();
    const own = me(client.presence<{ name?: string; x?: number }>('r'));
    const { seen } = watch(own);
    own.enter({ name: 'ann' })();
    await turn();
    // A throttled event of a component that has gone.
    own.update({ x: 9 });
    await turn();
    own.enter({ name: 'bob' });
    assert.deepEqual(seen, [{ name: 'ann' }, undefined, { name: 'bob' }]);
    await settled();
    assert.deepEqual(worker.of('show').map(({ json }) => json), ['{"name":"ann"}', undefined, '{"name":"bob"}']);
  });

  it('shows nobody of those who were there before it was left', async () => {
    const { client, worker } = await connected();
    const room = client.presence('r');
    const { end } = watch(members(room));
    worker.say(entry(true, member('c2', 1), member('c3', 1)));
    end();
    await turn();
    assert.deepEqual([members(room).getSnapshot(), worker.of('leave').length], [[], 1]);
    const again = watch(members(room));
    worker.say(entry(false, member('c4', 1)));
    assert.deepEqual(again.seen.map((list) => list.map(({ id }) => id)), [['c4']]);
  });
});

describe('a CRDT', () => {
  it('has a value of one identity until it changes, and its pending operations', async () => {
    const { client, worker } = await connected();
    const set = replica(client, 's', 'or-set');
    assert.equal(replica(client, 's', 'or-set'), set);
    const before = set.getSnapshot();
    assert.deepEqual([before.value, before.pending], [[], 0]);
    assert.equal(set.getSnapshot(), before);
    const { seen, end } = watch(set);
    before.crdt.add('a');
    await settled();
    assert.deepEqual([seen.at(-1)!.value, seen.at(-1)!.pending], [['a'], 1]);
    assert.equal(set.getSnapshot(), seen.at(-1));
    const { id } = worker.of('edit')[0]!;
    worker.say({ t: 'settled', kind: 'crdt', key: 's', id, returns: false });
    await settled();
    assert.deepEqual([seen.at(-1)!.value, seen.at(-1)!.pending], [['a'], 0]);
    const count = seen.length;
    end();
    before.crdt.add('b');
    await settled();
    assert.deepEqual([seen.length, set.getSnapshot().value], [count, ['a', 'b']]);
    end();
  });

  const commands = (worker: FakeWorker) => worker.received.filter((message) => 'kind' in message && message.kind === 'crdt').map(({ t }) => t);

  it('is left 5 s after its last reader has gone, and followed again by the next', async () => {
    const { client, worker } = await connected();
    mock.timers.enable({ apis: ['setTimeout'] });
    try {
      const set = replica(client, 's', 'or-set');
      const ends = [set.subscribe(() => {}), set.subscribe(() => {})];
      for (const end of [...ends, ...ends]) end();
      mock.timers.tick(4_999);
      const again = set.subscribe(() => {});
      mock.timers.tick(5_000);
      await settled();
      assert.deepEqual(commands(worker), ['open'], 'a route that changes finds it again');
      again();
      mock.timers.tick(5_000);
      await settled();
      assert.deepEqual(commands(worker), ['open', 'leave']);
      assert.equal(replica(client, 's', 'or-set'), set);
      const last = set.subscribe(() => {});
      await settled();
      assert.deepEqual(commands(worker), ['open', 'leave', 'open']);
      last();
      mock.timers.tick(5_000);
      // A change made by nobody who shows it is sent nevertheless.
      set.getSnapshot().crdt.add('late');
      await settled();
      assert.deepEqual(commands(worker).slice(3), ['leave', 'open', 'edit']);
      assert.deepEqual([set.getSnapshot().value, set.getSnapshot().pending], [['late'], 1]);
      // What others do meanwhile does not put it off.
      mock.timers.tick(4_999);
      worker.say({ t: 'entry', kind: 'crdt', key: 's', rev: 1, data: { ...JSON.parse(worker.of('edit')[0]!.json!), nodeId: 'other' } });
      await settled();
      assert.deepEqual(set.getSnapshot().value, ['late']);
      mock.timers.tick(1);
      await settled();
      assert.equal(commands(worker).at(-1), 'leave');
      worker.fail('gone');
      const next = await ready(1);
      assert.deepEqual(commands(next), ['open', 'edit', 'leave']);
    } finally {
      mock.timers.reset();
    }
  });

  it('that the application has, too, is never left', async () => {
    for (const early of [true, false]) {
      const { client, worker } = await connected();
      mock.timers.enable({ apis: ['setTimeout'] });
      try {
        if (early) client.crdt.set('s');
        replica(client, 's', 'or-set').subscribe(() => {})();
        mock.timers.tick(5_000);
        client.crdt.set('s');
        await settled();
        assert.deepEqual(commands(worker), early ? ['open'] : ['open', 'leave', 'open']);
        replica(client, 's', 'or-set').subscribe(() => {})();
        mock.timers.tick(5_000);
        await settled();
        assert.deepEqual(commands(worker), early ? ['open'] : ['open', 'leave', 'open']);
      } finally {
        mock.timers.reset();
        clients.length = FakeWorker.all.length = 0;
        await client.disconnect();
      }
    }
  });

  it('that is rendered and never shown is left, too, but on a server', async () => {
    for (const page of [true, false]) {
      const { client, worker } = await connected();
      if (page) (globalThis as any).window = globalThis;
      mock.timers.enable({ apis: ['setTimeout'] });
      try {
        replica(client, 's', 'or-set');
        mock.timers.tick(5_000);
        await settled();
        assert.deepEqual(commands(worker), page ? ['open', 'leave'] : ['open']);
      } finally {
        mock.timers.reset();
        delete (globalThis as any).window;
        clients.length = FakeWorker.all.length = 0;
        await client.disconnect();
      }
    }
  });

  it('of another type is refused', async () => {
    const { client } = await connected();
    replica(client, 'c', 'pn-counter');
    assert.throws(() => replica(client, 'c', 'or-set'), TypeError);
  });
});

describe('a document', () => {
  it('shows whoever comes back as before, and what it says of itself from then on', async () => {
    const { client } = await connected();
    const { subscribe, getSnapshot } = openDocument(client, 'd');
    mock.timers.enable({ apis: ['setTimeout'] });
    try {
      const end = subscribe(() => {});
      const { awareness } = getSnapshot().provider!;
      awareness.setLocalStateField('user', 'ann');
      end();
      assert.equal(awareness.getLocalState(), null);
      // A child's effect runs before its parent's; awareness takes no field of one that is away.
      awareness.setLocalStateField('user', 'ann');
      const again = subscribe(() => {});
      assert.deepEqual(awareness.getLocalState(), { user: 'ann' });
      awareness.setLocalStateField('cursor', 1);
      again();
      mock.timers.tick(5_000);
      assert.equal(getSnapshot().provider, undefined);
      const last = subscribe(() => {});
      assert.deepEqual(getSnapshot().provider!.awareness.getLocalState(), {});
      last();
      mock.timers.tick(5_000);
    } finally {
      mock.timers.reset();
    }
  });
});

describe('pending things', () => {
  it('are calls and operations, told once for each turn', async () => {
    const { client, worker } = await connected();
    const readable = pendings(client);
    const { seen, end } = watch(readable);
    const calls = [client.rpc('a'), client.rpc('b')];
    client.crdt.counter('c').increment();
    await settled();
    assert.deepEqual(seen, [{ calls: 2, crdt: 1, docs: 0, total: 3 }]);
    assert.equal(readable.getSnapshot(), seen[0]);
    const [first] = worker.of('call');
    worker.say({ t: 'done', id: first!.id, value: 1 });
    await settled();
    assert.deepEqual(seen.at(-1), { calls: 1, crdt: 1, docs: 0, total: 2 });
    end();
    end();
    assert.equal(client.traffic, undefined);
    await client.disconnect();
    await assert.rejects(calls[1]!);
    assert.equal(await calls[0], 1);
    assert.equal(readable.getSnapshot().calls, 0, 'read without a reader, it is as it is');
  });

  it('are changes of documents, too', async () => {
    const { client, worker } = await connected();
    const doc = new Y.Doc();
    const provider = new DatasoleProvider(client, 'd', doc);
    client.presence('r').join(1);
    const { seen } = watch(pendings(client));
    doc.getText('t').insert(0, 'a');
    await settled();
    assert.deepEqual(seen, [{ calls: 0, crdt: 0, docs: 1, total: 1 }]);
    worker.say({ t: 'progress', kind: 'doc', key: 'd', phase: 'synced', pending: 0, stored: 1 });
    await settled();
    assert.deepEqual(seen.at(-1), { calls: 0, crdt: 0, docs: 0, total: 0 });
    provider.destroy();
  });

  it('end with the client', async () => {
    const { client } = await connected();
    const { seen } = watch(pendings(client));
    const call = client.rpc('a');
    await settled();
    await client.disconnect();
    await assert.rejects(call);
    await settled();
    assert.deepEqual(seen.map(({ calls }) => calls), [1, 0]);
  });
});

describe('a connection', () => {
  it('is lost when there was none for a while', async () => {
    const { client, worker } = await connected();
    mock.timers.enable({ apis: ['setTimeout'] });
    try {
      const { seen, end } = watch(lost(client, 5_000));
      worker.say(RECONNECTING);
      mock.timers.tick(4_999);
      worker.say({ ...RECONNECTING, attempt: 2 } as FromWorker);
      assert.deepEqual(seen, []);
      mock.timers.tick(1);
      assert.deepEqual(seen, [true]);
      worker.say(CONNECTED);
      worker.say(RECONNECTING);
      mock.timers.tick(4_999);
      worker.say(CONNECTED);
      mock.timers.tick(5_000);
      assert.deepEqual(seen, [true, false], 'a short interruption is none');
      end();
      worker.say(RECONNECTING);
      mock.timers.tick(5_000);
      assert.deepEqual(seen, [true, false]);
    } finally {
      mock.timers.reset();
    }
  });

  it('is lost at once, late, or never, as it is told', async () => {
    for (const [after, before, then] of [[0, 0, true], [2 ** 31 + 5, 2 ** 31 - 2, true], [Infinity, 2 ** 31 - 2, undefined]] as const) {
      const { client, worker } = await connected();
      mock.timers.enable({ apis: ['setTimeout'] });
      try {
        const { seen, end } = watch(lost(client, after));
        worker.say(RECONNECTING);
        if (before) mock.timers.tick(before);
        assert.deepEqual(seen, []);
        if (then) mock.timers.tick(1);
        assert.deepEqual(seen, then ? [true] : []);
        end();
      } finally {
        mock.timers.reset();
        clients.length = FakeWorker.all.length = 0;
        await client.disconnect();
      }
    }
  });

  it('that was never wanted, or closed, is not lost; one that was given up is', async () => {
    const idle = makeClient();
    assert.equal(watch(lost(idle, 0)).seen.length + Number(lost(idle, 0).getSnapshot()), 0);
    const { client, worker } = await connected();
    const readable = lost(client);
    const { seen } = watch(readable);
    worker.say({ t: 'status', state: 'disconnected', reason: { kind: 'unauthorized', message: 'no' } });
    assert.deepEqual([seen, connection(client).getSnapshot().state], [[true], 'disconnected']);
  });
});

describe('a state that a server has rendered', () => {
  const initial = { value: { n: 1 }, epoch: 8, seq: 3 };
  const patch = (rev: number, n: number) =>
    ({ t: 'patch' as const, key: 'k', rev, ops: [{ op: 'replace', path: '/n', value: n }] }) satisfies FromWorker;
  const since = (message: { since?: unknown }) => message.since;

  it('is shown at once, stale, and followed from there on', async () => {
    const client = makeClient();
    seed(client, 'k', initial);
    const state = live(client, 'k');
    assert.deepEqual(state.getSnapshot(), { status: 'ready', data: { n: 1 }, error: undefined, stale: true });
    const { seen } = watch(state);
    const opened = client.connect();
    const worker = await ready();
    worker.say(CONNECTED);
    await opened;
    assert.deepEqual(worker.of('subscribe').map(since), [{ epoch: 8, seq: 3 }]);
    worker.say({ t: 'subscribed', kind: 'state', key: 'k', recovered: true }, patch(4, 2), patch(5, 3));
    assert.deepEqual(seen.map(({ data, stale }) => [data, stale]), [[{ n: 3 }, false]]);
    assert.deepEqual(initial.value, { n: 1 });
    assert.deepEqual(worker.of('resync'), []);
  });

  it('begins the key that it was first given for, and no other', async () => {
    const { client } = await connected();
    const board = { value: { n: 1 }, epoch: 8, seq: 3 };
    for (const key of ['board:1', 'board:2', 'board:1']) seed(client, key, board);
    assert.deepEqual(live(client, 'board:1').getSnapshot().data, { n: 1 });
    assert.equal(live(client, 'board:2').getSnapshot().status, 'loading');
    const other = makeClient();
    seed(other, 'board:1', board);
    assert.deepEqual(live(other, 'board:1').getSnapshot().data, { n: 1 });
  });

  it('is replaced when the server does not know what changed', async () => {
    const { client, worker } = await connected();
    seed(client, 'k', initial);
    const { seen } = watch(live(client, 'k'));
    worker.say({ t: 'snapshot', key: 'k', rev: 90, value: { n: 9 } }, patch(91, 10));
    assert.deepEqual(seen.map(({ data }) => data), [{ n: 10 }]);
  });

  it('is asked for from there again by a new core, unless something has come', async () => {
    const { client, worker } = await connected();
    seed(client, 'k', initial);
    watch(live(client, 'k'));
    seed(client, 'l', { value: 1, epoch: 8, seq: 7 });
    watch(live(client, 'l'));
    await settled();
    worker.say(patch(4, 2));
    worker.fail('gone');
    const next = await ready(1);
    assert.deepEqual(next.of('subscribe').map(({ key, since }) => [key, since]), [['k', undefined], ['l', { epoch: 8, seq: 7 }]]);
    assert.deepEqual(live(client, 'k').getSnapshot().data, { n: 2 });
  });

  it('says nothing about one that is known, or followed', async () => {
    const { client, worker } = await connected();
    watch(live(client, 'k'));
    seed(client, 'k', initial);
    assert.deepEqual(live(client, 'k').getSnapshot().data, { n: 1 }, 'until the answer');
    worker.say({ t: 'snapshot', key: 'k', rev: 5, value: { n: 5 } });
    seed(client, 'k', initial);
    assert.deepEqual(live(client, 'k').getSnapshot(), { status: 'ready', data: { n: 5 }, error: undefined, stale: false });
    await settled();
    assert.deepEqual(worker.of('subscribe').map(since), [undefined]);
  });
});
