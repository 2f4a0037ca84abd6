// The mirror in development builds.
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { connected } from './fake-worker.js';

it('values are frozen in development builds, and change nevertheless', async () => {
  process.env.NODE_ENV = 'development';
  const { live } = await import('../src/live.js');
  const { client, worker } = await connected();
  const state = live(client, 'k');
  state.subscribe(() => {});
  worker.say({ t: 'snapshot', key: 'k', rev: 1, value: { rows: [{ n: 1 }, { n: 2 }] } });
  const before: any = state.getSnapshot().data;
  assert.throws(() => (before.rows[0].n = 5), TypeError);
  assert.throws(() => before.rows.push(1), TypeError);
  worker.say({ t: 'patch', key: 'k', rev: 2, ops: [{ op: 'replace', path: '/rows/0/n', value: 3 }, { op: 'add', path: '/rows/-', value: 4 }] });
  const after: any = state.getSnapshot().data;
  assert.deepEqual(after, { rows: [{ n: 3 }, { n: 2 }, 4] });
  assert.equal(after.rows[1], before.rows[1]);
  assert.throws(() => ((after as any).rows[0].n = 5), TypeError);
  assert.deepEqual(worker.of('resync'), []);
});
