// Live states, against a worker that is the test.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { DatasoleError } from '../src/client.js';
import type { FromWorker } from '../src/protocol.js';
import { CONNECTED, connected, reported, settled } from './fake-worker.js';

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

  it('say at each repair whether a patch was applied since the last one', async () => {
    const { client, worker } = await connected();
    client.subscribeState('k', () => {});
    const whole = (rev: number): FromWorker => ({ t: 'snapshot', key: 'k', rev, value: { n: 0 } });
    const patch = (rev: number, path: string): FromWorker => ({ t: 'patch', key: 'k', rev, ops: [{ op: 'replace', path, value: rev }] });
    worker.say(whole(1), patch(2, '/none'));
    worker.say(whole(2), patch(3, '/none'));
    worker.say(whole(3), patch(4, '/n'), patch(5, '/none'));
    worker.say(whole(5), patch(6, '/none'));
    await settled();
    assert.deepEqual(worker.of('resync').map(({ applied }) => applied), [false, false, true, false]);
  });

  const long = 'x'.repeat(1024 * 1024);
  for (const op of [{ op: 'add', path: '/texts/-', value: long }, { op: 'copy', from: '/texts/0', path: '/texts/-' }]) {
    it(`cannot grow without end by patches that ${op.op}`, async () => {
      const { client, worker } = await connected();
      const seen: any[] = [];
      client.subscribeState('k', (value) => seen.push(value));
      worker.say({ t: 'snapshot', key: 'k', rev: 1, value: { n: 0, texts: [long] } });
      for (let rev = 2; rev < 30; rev++) worker.say({ t: 'patch', key: 'k', rev, ops: [op] });
      await settled();
      assert.equal(seen.at(-1).texts.length, 16, 'it may grow by 15 MiB, not by 16 and their quotes');
      assert.deepEqual(worker.of('resync'), [{ t: 'resync', key: 'k', applied: true }]);
    });
  }

  it('that only change may change for ever', async () => {
    const { client, worker } = await connected();
    client.subscribeState('k', () => {});
    worker.say({ t: 'snapshot', key: 'k', rev: 1, value: { text: '' } });
    for (let rev = 2; rev < 42; rev++) worker.say({ t: 'patch', key: 'k', rev, ops: [{ op: 'replace', path: '/text', value: long }] });
    await settled();
    assert.deepEqual(worker.of('resync'), []);
    assert.equal((client.getState('k') as any).text, long);
  });

  describe('of a version 1 server, which cannot repeat', () => {
    const replace = (path: string, value: unknown, rev: number): FromWorker => {
      return { t: 'patch', key: 'k', rev, ops: [{ op: 'replace', path: '/v', value: 'half' }, { op: 'replace', path, value }] };
    };

    it('go on without a change that does not fit, and say once that they may be wrong', async () => {
      const { client, worker } = await connected({}, { ...CONNECTED, protocol: 1 } as FromWorker);
      const seen: any[] = [];
      client.subscribeState('k', (value) => seen.push(value));
      worker.say({ t: 'snapshot', key: 'k', rev: 1, value: { v: 1 } });
      worker.say(replace('/none', 2, 2), replace('/v', 3, 3));
      worker.say(replace('/none', 4, 4));
      worker.say(replace('/v', 5, 5));
      assert.deepEqual(seen, [undefined, { v: 1 }, { v: 3 }, { v: 5 }]);
      await settled();
      assert.deepEqual(worker.of('resync'), []);
      assert.deepEqual(
        reported.map((error) => (error as Error).message),
        ['state k may be wrong: a change did not fit'],
      );
      worker.say({ t: 'snapshot', key: 'k', rev: 6, value: { v: 6 } }, replace('/none', 7, 7));
      assert.equal(reported.length, 2, 'a whole value is right again');
    });

    it('go on after a lost one', async () => {
      const { client, worker } = await connected({}, { ...CONNECTED, protocol: 1 } as FromWorker);
      client.subscribeState('k', () => {});
      worker.say({ t: 'snapshot', key: 'k', rev: 1, value: { v: 1 } }, replace('/v', 9, 4));
      assert.deepEqual([client.getState('k'), reported], [{ v: 9 }, []]);
    });

    it('come before anybody asks, and stay when nobody does any more', async () => {
      const { client, worker } = await connected({}, { ...CONNECTED, protocol: 1 } as FromWorker);
      worker.say({ t: 'snapshot', key: 'k', rev: 1, value: 1 });
      assert.equal(client.getState('k'), 1);
      client.subscribeState('k', () => {}).unsubscribe();
      worker.say({ t: 'left', kind: 'state', key: 'k' });
      assert.equal(client.getState('k'), 1);
    });
  });
});
