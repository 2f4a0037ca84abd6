// The smaller adapters, each in its framework: Svelte, Solid and TanStack DB.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

import { bundled, describeInBrowser, rpc, until } from './harness.mjs';

const npm = createRequire(new URL('../../npm/package.json', import.meta.url));

const CLIENT = `
  import { DatasoleClient } from 'datasole/client';
  const connected = async () => {
    window.client = new DatasoleClient({ url: location.origin, useWorker: false });
    await client.connect();
  };
  Object.assign(window, { DatasoleClient, connected });
`;

const open = async (world, name, source) => {
  Object.assign(world.files, await bundled(name, CLIENT + source));
  const page = await world.open(name);
  await page.evaluate(() => connected());
  return page;
};

const text = (page, expected) => until(page, (expected) => document.getElementById('root').textContent.trim() === expected, expected);

/** Shows a state, leaves an unchanged selection alone, and leaves nothing behind. */
async function follows(page) {
  await page.evaluate(() => show());
  await text(page, 'loading');
  await rpc(page, 'bump');
  await text(page, 'ready 1');
  const before = await page.evaluate(() => renders);
  for (let n = 0; n < 5; n++) await rpc(page, 'bump', { row: 1 });
  assert.equal(await page.evaluate(() => renders), before, 'the selection is unchanged');
  await rpc(page, 'bump');
  await text(page, 'ready 2');
  await page.evaluate(() => hide());
  await until(page, () => client.store.peek('dashboard').handlers.size === 0 && client.store.watchers.size === 0);
}

describeInBrowser((spec) => {
  spec('Svelte', async (world) => {
    const { compile } = npm('svelte/compiler');
    const component = `
      <script>
        import { liveState } from 'datasole/svelte';
        let { client } = $props();
        const board = liveState(client, 'dashboard', ({ visitors }) => visitors);
        const shown = $derived(board.current);
        $effect(() => { shown; window.renders++; });
      </script>
      <p>{shown.status === 'absent' ? 'loading' : shown.status} {shown.data ?? ''}</p>`;
    const { js } = compile(component, { name: 'Board', generate: 'client' });
    const page = await open(
      world,
      'svelte',
      `${js.code.replace('export default', '')}
       import { mount, unmount } from 'svelte';
       window.renders = 0;
       let board;
       window.show = () => (board = mount(Board, { target: document.getElementById('root'), props: { client: window.client } }));
       window.hide = () => unmount(board);`,
    );
    await follows(page);
  });

  spec('Solid', async (world) => {
    const page = await open(
      world,
      'solid',
      `import { createEffect, createRoot } from 'solid-js';
       import { createLiveState } from 'datasole/solid';
       window.renders = 0;
       window.show = () => {
         window.hide = createRoot((dispose) => {
           const board = createLiveState(client, 'dashboard', ({ visitors }) => visitors);
           createEffect(() => {
             const { status, data } = board();
             renders++;
             document.getElementById('root').textContent = (status === 'absent' ? 'loading' : status) + ' ' + (data ?? '');
           });
           return dispose;
         });
       };`,
    );
    await follows(page);
  });

  spec('TanStack DB: a batch is a transaction of the rows that changed', async (world) => {
    const page = await open(
      world,
      'tanstack',
      `import { createCollection } from '@tanstack/db';
       import { datasoleCollection } from 'datasole/tanstack-db';
       const options = { key: 'todos', getKey: ({ id }) => id };
       window.make = (more) => createCollection(datasoleCollection({ client, ...options, ...more }));`,
    );
    const set = (value) => rpc(page, 'setState', { key: 'todos', value });
    await set([{ id: 'a', done: false }, { id: 'b', done: false }]);
    await page.evaluate(async () => {
      window.todos = make();
      await todos.preload();
      window.changes = [];
      const changed = (batch) => changes.push(batch.map(({ type, key }) => `${type} ${key}`).sort());
      todos.subscribeChanges(changed, { includeInitialState: true });
    });
    const rows = () => page.evaluate(() => todos.toArray.map(({ id, done }) => `${id}${+done}`).sort().join());
    assert.equal(await rows(), 'a0,b0');
    await set([{ id: 'a', done: false }, { id: 'b', done: true }, { id: 'c', done: false }]);
    await until(page, () => todos.size === 3);
    await set([{ id: 'b', done: true }, { id: 'c', done: false }]);
    await until(page, () => todos.size === 2);
    assert.equal(await rows(), 'b1,c0');
    assert.deepEqual(await page.evaluate(() => changes), [['insert a', 'insert b'], ['insert c', 'update b'], ['delete a']]);
    await page.evaluate(() => todos.cleanup());
    await until(page, () => client.store.watchers.size === 0);
    const refused = await page.evaluate(async () => {
      const refused = make({ key: 'k'.repeat(300) });
      return refused.preload().then(() => 'ready', (error) => error.name);
    });
    assert.equal(refused, 'DatasoleError');
  });
});
