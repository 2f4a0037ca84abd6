// The contract of stores, against a worker that is the test.
import assert from 'node:assert/strict';
import { describe, it, mock } from 'node:test';
import { connection, live, ready, select } from '../src/live.js';
import type { FromWorker } from '../src/protocol.js';
import { type DatasoleClient, DatasoleError, ErrorCode } from '../src/client.js';
import { clients, CONNECTED, connected, FakeWorker, makeClient, ready as greeted, reported, settled } from './fake-worker.js';

const SNAPSHOT = { t: 'snapshot', key: 'k', rev: 1, value: { title: 'a', n: 0 } } as const;
const REFUSED = { t: 'refused', what: 'state', name: 'k', error: { code: -32002, message: 'forbidden', retryable: false } } as const;
const patch = (rev: number, path: string, value: unknown) =>
  ({ t: 'patch' as const, key: 'k', rev, ops: [{ op: 'replace', path, value }] }) satisfies FromWorker;

describe('a live state', () => {
  it('is loading, ready, absent, and one object after each change', async () => {
    const { client, worker } = await connected();
    const state = live(client, 'k');
    assert.equal(live(client, 'k'), state);
    const loading = state.getSnapshot();
    assert.deepEqual(loading, { status: 'loading', data: undefined, error: undefined, stale: false });
    await settled();
    assert.deepEqual(worker.of('subscribe'), [], 'reading has no effect');
    const seen: unknown[] = [];
    state.subscribe(() => seen.push(state.getSnapshot()));
    assert.deepEqual(seen, [], 'called after changes only');
    assert.equal(state.getSnapshot(), loading);
    worker.say(SNAPSHOT);
    const shown = state.getSnapshot();
    assert.deepEqual(shown, { status: 'ready', data: { title: 'a', n: 0 }, error: undefined, stale: false });
    assert.equal(state.getSnapshot(), shown);
    worker.say(patch(2, '/n', 1), patch(3, '/n', 2));
    assert.deepEqual([shown.data, state.getSnapshot().data], [{ title: 'a', n: 0 }, { title: 'a', n: 2 }]);
    worker.say({ t: 'snapshot', key: 'k', rev: 4, value: undefined });
    assert.deepEqual(state.getSnapshot(), { status: 'absent', data: undefined, error: undefined, stale: false });
    worker.say({ t: 'snapshot', key: 'k', rev: 5, value: null });
    assert.deepEqual(state.getSnapshot(), { status: 'ready', data: null, error: undefined, stale: false });
    assert.equal(seen.length, 4, 'once for what came together');
  });

  it('is refused with the error, which nobody else has to report', async () => {
    const { client, worker } = await connected();
    const state = live(client, 'k');
    let changes = 0;
    state.subscribe(() => changes++);
    const error = { code: -32002, message: 'forbidden', retryable: false };
    worker.say({ t: 'refused', what: 'state', name: 'k', error });
    const refused = state.getSnapshot();
    assert.equal(refused.status, 'refused');
    assert.deepEqual([refused.error?.code, refused.error?.message, changes], [-32002, 'state k: forbidden', 1]);
    await assert.rejects(ready(client, 'k'), { code: -32002 });
    assert.deepEqual(reported.splice(0), []);
  });

  it('that was refused is asked for again on the next connection', async () => {
    const { client, worker } = await connected();
    const state = live(client, 'k');
    state.subscribe(() => {});
    const error = { code: -32002, message: 'forbidden', retryable: false };
    worker.say({ t: 'refused', what: 'state', name: 'k', error });
    await assert.rejects(ready(client, 'k'));
    worker.say({ t: 'status', state: 'reconnecting', attempt: 1, reason: { kind: 'closed', message: '' } });
    assert.equal(state.getSnapshot().status, 'refused');
    worker.say(CONNECTED);
    assert.equal(state.getSnapshot().status, 'loading');
    worker.say(SNAPSHOT);
    assert.equal(state.getSnapshot().status, 'ready');
    worker.say({ t: 'status', state: 'reconnecting', attempt: 1, reason: { kind: 'closed', message: '' } }, CONNECTED);
    await settled();
    assert.equal(worker.of('subscribe').length, 2, "what is followed is the core's to renew");
  });

  it('that was refused is shown when the server says yes after all', async () => {
    const { client, worker } = await connected();
    const state = live(client, 'k');
    const end = state.subscribe(() => {});
    worker.say(REFUSED);
    end();
    const seen: string[] = [];
    state.subscribe(() => seen.push(state.getSnapshot().status));
    await settled();
    assert.equal(worker.of('subscribe').length, 2);
    worker.say(SNAPSHOT);
    assert.deepEqual([seen, state.getSnapshot().data, state.getSnapshot().error], [['ready'], SNAPSHOT.value, undefined]);
  });

  it('that was refused is forgotten 5 s after its last reader has gone, unless there is one again', async () => {
    const { client, worker } = await connected();
    mock.timers.enable({ apis: ['setTimeout'] });
    try {
      const { subscribe, getSnapshot } = live(client, 'k');
      const end = subscribe(() => {});
      worker.say(REFUSED);
      end();
      mock.timers.tick(4_999);
      assert.equal(getSnapshot().status, 'refused');
      const again = subscribe(() => {});
      mock.timers.tick(1);
      assert.equal(getSnapshot().status, 'refused', 'somebody is there');
      again();
      mock.timers.tick(5_000);
      assert.deepEqual([client.store.peek('k'), getSnapshot().status], [undefined, 'loading']);
      // One that is shown by then is the core's to leave.
      const last = subscribe(() => {});
      worker.say(REFUSED);
      last();
      worker.say(SNAPSHOT);
      mock.timers.tick(5_000);
      assert.equal(getSnapshot().status, 'ready');
      worker.say({ t: 'left', kind: 'state', key: 'k' });
      assert.equal(client.store.peek('k'), undefined);
    } finally {
      mock.timers.reset();
    }
  });

  const LOST: FromWorker = { t: 'status', state: 'reconnecting', attempt: 1, reason: { kind: 'closed', message: '' } };
  const answered = (recovered: boolean) => ({ t: 'subscribed' as const, kind: 'state', key: 'k', recovered });

  it('is stale without a connection, until the server says on the next one that it goes on from there', async () => {
    const { client, worker } = await connected();
    const state = live(client, 'k');
    const seen: [number, boolean][] = [];
    state.subscribe(() => seen.push([state.getSnapshot().data.n, state.getSnapshot().stale]));
    worker.say(answered(false));
    worker.say(SNAPSHOT);
    worker.say(LOST);
    worker.say(CONNECTED);
    assert.equal(connection(client).getSnapshot().state, 'connected');
    assert.deepEqual(seen, [[0, false], [0, true]], 'connected alone says nothing about it');
    worker.say(answered(true), patch(2, '/n', 1));
    assert.deepEqual(seen, [[0, false], [0, true], [1, false]], 'with what was missed, if it comes together');
    worker.say(LOST, CONNECTED, answered(true));
    assert.deepEqual(seen.slice(3), [[1, true], [1, false]]);
    worker.say(answered(true));
    assert.equal(seen.length, 5);
  });

  it('is stale until a whole value has come, where the server does not go on from there', async () => {
    const { client, worker } = await connected();
    const state = live(client, 'k');
    const seen: [number, boolean][] = [];
    state.subscribe(() => seen.push([state.getSnapshot().data.n, state.getSnapshot().stale]));
    worker.say(SNAPSHOT);
    worker.say(LOST, CONNECTED, answered(false));
    assert.deepEqual(seen, [[0, false], [0, true]]);
    worker.say({ ...SNAPSHOT, rev: 9, value: { n: 9 } });
    assert.deepEqual(seen.at(-1), [9, false]);
    // One that a shared worker has from an earlier connection.
    worker.say(LOST, CONNECTED, { ...SNAPSHOT, rev: 10, value: { n: 10 }, old: true });
    assert.deepEqual(seen.at(-1), [10, true]);
    worker.say(answered(true));
    assert.deepEqual(seen.at(-1), [10, false]);
  });

  it('is current when a server of version 1 is connected, which says nothing more', async () => {
    const { client, worker } = await connected({}, { ...CONNECTED, protocol: 1 } as FromWorker);
    const state = live(client, 'k');
    state.subscribe(() => {});
    worker.say(answered(false), SNAPSHOT);
    worker.say(LOST);
    assert.equal(state.getSnapshot().stale, true);
    worker.say({ ...CONNECTED, protocol: 1 } as FromWorker, answered(false));
    assert.equal(state.getSnapshot().stale, false);
  });

  it('that does not fit is stale until it is repaired', async () => {
    const { client, worker } = await connected();
    const state = live(client, 'k');
    const seen: boolean[] = [];
    state.subscribe(() => seen.push(state.getSnapshot().stale));
    worker.say(answered(false), SNAPSHOT);
    worker.say(patch(7, '/n', 1));
    await settled();
    assert.deepEqual([worker.of('resync').length, state.getSnapshot().stale], [1, true]);
    worker.say(answered(false), { ...SNAPSHOT, rev: 7 });
    assert.equal(state.getSnapshot().stale, false);
  });

  it('that is mounted twice, as in StrictMode, is subscribed once and keeps its value', async () => {
    const { client, worker } = await connected();
    const { subscribe, getSnapshot } = live(client, 'k');
    const end = subscribe(() => {});
    worker.say(SNAPSHOT);
    const before = getSnapshot();
    end();
    end();
    const again = subscribe(() => {});
    assert.equal(getSnapshot(), before, 'no flash');
    await settled();
    const wire = worker.received.filter(({ t }) => /subscribe/.test(t)).map(({ t }) => t);
    assert.deepEqual(wire, ['subscribe', 'unsubscribe', 'subscribe'], 'the core lingers in between');
    again();
  });

  it('leaves no handler behind after 10,000 mounts', async () => {
    const { client, worker } = await connected();
    const { subscribe } = live(client, 'k');
    let called = 0;
    for (let i = 0; i < 10_000; i++) subscribe(() => called++)();
    worker.say(SNAPSHOT);
    assert.equal(called, 0);
  });

  it('is awaited', async () => {
    const { client, worker } = await connected();
    const value = ready(client, 'k');
    worker.say(SNAPSHOT);
    assert.deepEqual(await value, { title: 'a', n: 0 });
    const gone = ready(client, 'gone');
    worker.say({ t: 'snapshot', key: 'gone', rev: 1, value: undefined });
    assert.equal(await gone, undefined);
  });
});

/** Two ways to await a state. */
const WAYS: Record<string, (client: DatasoleClient, key: string) => Promise<unknown>> = {
  ready,
  'subscription.ready': (client, key) => {
    const subscription = client.subscribeState(key, () => {});
    const value = subscription.ready;
    subscription.unsubscribe();
    return value;
  },
};

for (const [way, ready] of Object.entries(WAYS)) {
  describe(`a state that is awaited by ${way}`, () => {
    const verdict = { kind: 'unauthorized', message: 'no', code: 4401 } as const;

    it('fails when the connection ends for good, and is followed no longer', async () => {
      for (const disconnect of [false, true]) {
        const { client, worker } = await connected();
        const value = ready(client, 'k');
        const code = disconnect ? ErrorCode.Closed : ErrorCode.Unauthorized;
        const failed = assert.rejects(value, (error) => error instanceof DatasoleError && error.code === code);
        if (disconnect) await client.disconnect();
        else worker.say({ t: 'status', state: 'disconnected', reason: verdict });
        await failed;
        assert.equal(client.store.peek('k')!.handlers.size, 0);
        await assert.rejects(ready(client, 'k'), { code }, 'at once');
        clients.length = FakeWorker.all.length = 0;
      }
    });

    it('waits for a first connection, through interruptions, and for a client that is connected anew', async () => {
      const client = makeClient();
      const first = ready(client, 'k');
      const opened = client.connect();
      const worker = await greeted();
      worker.say(CONNECTED, { t: 'status', state: 'reconnecting', attempt: 1, reason: { kind: 'closed', message: '' } }, CONNECTED);
      await opened;
      worker.say(SNAPSHOT);
      assert.deepEqual(await first, SNAPSHOT.value);
      await client.disconnect();
      void client.connect().catch(() => {});
      const second = ready(client, 'l');
      const next = await greeted(1);
      next.say(CONNECTED, { ...SNAPSHOT, key: 'l' });
      assert.deepEqual(await second, SNAPSHOT.value);
    });

    it('is known at once where it is known, and followed no longer', async () => {
      const { client, worker } = await connected();
      const value = ready(client, 'k');
      worker.say(SNAPSHOT);
      assert.equal(await value, await ready(client, 'k'));
      assert.equal(client.store.peek('k')!.handlers.size, 0);
      const left = worker.of('unsubscribe').map(({ id, linger }) => [id, linger]);
      assert.deepEqual(left, worker.of('subscribe').map(({ id }) => [id, 5_000]));
    });

    it('fails when the server refuses it, which nobody else has to report', async () => {
      const { client, worker } = await connected();
      const failed = assert.rejects(ready(client, 'k'), { code: -32002, message: 'state k: forbidden' });
      worker.say(REFUSED);
      await failed;
      assert.deepEqual(reported, []);
    });
  });
}

describe('a subscription', () => {
  it('is ready with the value that its handler has, and follows on', async () => {
    const { client, worker } = await connected();
    const seen: unknown[] = [];
    const { ready, unsubscribe } = client.subscribeState('k', (value) => seen.push(value));
    worker.say(SNAPSHOT);
    assert.equal(await ready, seen.at(-1));
    worker.say(patch(2, '/n', 1));
    assert.deepEqual(seen.at(-1), { title: 'a', n: 1 });
    assert.equal(worker.of('unsubscribe').length, 0);
    unsubscribe();
    await settled();
    assert.equal(worker.of('unsubscribe').length, 1);
  });

  it('that was awaited reports a refusal that comes later', async () => {
    const { client, worker } = await connected();
    const { ready } = client.subscribeState('k', () => {});
    worker.say(SNAPSHOT);
    await ready;
    worker.say(REFUSED);
    assert.equal(reported.splice(0).length, 1);
  });

  it('that nobody awaits reports its refusal', async () => {
    const { client, worker } = await connected();
    client.subscribeState('k', () => {});
    worker.say(REFUSED);
    assert.equal(reported.splice(0).length, 1);
  });
});

describe('a selection', () => {
  it('changes only when its part does', async () => {
    const { client, worker } = await connected();
    const title = select(live(client, 'k'), ({ data }) => data?.title as string | undefined);
    const seen: unknown[] = [];
    title.subscribe(() => seen.push(title.getSnapshot()));
    worker.say(SNAPSHOT);
    worker.say(patch(2, '/n', 1));
    worker.say(patch(3, '/title', 'b'));
    assert.deepEqual(seen, ['a', 'b']);
  });

  it('is compared as it is told', async () => {
    const { client, worker } = await connected();
    let computed = 0;
    const parts = select(
      live(client, 'k'),
      ({ data }) => (computed++, [data?.title]),
      (a, b) => a[0] === b[0],
    );
    worker.say(SNAPSHOT);
    parts.subscribe(() => {});
    worker.say(SNAPSHOT);
    const before = parts.getSnapshot();
    worker.say(patch(2, '/n', 1));
    assert.equal(parts.getSnapshot(), before);
    assert.equal(parts.getSnapshot(), before);
    assert.ok(computed <= 3, `computed ${computed} times`);
  });
});
