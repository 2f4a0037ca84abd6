// The same session in every build and mode: worker and in-thread, IIFE and ESM, and the worker with the wasm inside.

import assert from 'node:assert/strict';

import { connect, describeInBrowser, follow, rpc, until } from './harness.mjs';

const INLINE = '/__ds/datasole-worker.inline.iife.min.js';
const VARIANTS = [
  { name: 'IIFE, worker', page: 'iife', options: {} },
  { name: 'IIFE, in-thread', page: 'iife', options: { useWorker: false } },
  { name: 'IIFE, inline worker', page: 'iife', options: { workerUrl: INLINE }, withoutWasm: true },
  { name: 'ESM, worker', page: 'esm', options: {} },
  { name: 'ESM, in-thread', page: 'esm', options: { useWorker: false } },
];

describeInBrowser((spec) => {
  for (const { name, page: build, options, withoutWasm } of VARIANTS) {
    spec(`${name}: calls, events and states`, async (world) => {
      if (withoutWasm) await world.context.route('**/*.wasm', (route) => route.abort());
      const asked = [];
      world.context.on('request', (request) => asked.push(new URL(request.url()).pathname));
      const page = await world.open(build);
      await connect(page, options);
      assert.equal(await page.evaluate(() => client.getConnectionState()), 'connected');
      const workers = options.useWorker === false ? 0 : 1;
      assert.equal(page.workers().length, workers, 'workers');
      assert.equal(asked.some((path) => path.endsWith('.wasm')), !withoutWasm, asked.join(' '));

      for (const value of [null, true, 0, -1.5, '', 'ä€😀', [], {}, { a: [1, { b: null }] }, 'x'.repeat(5_000)]) {
        assert.deepEqual(await rpc(page, 'echo', value), value);
      }
      assert.deepEqual(await rpc(page, 'add', { a: 2, b: 3 }), { sum: 5 });
      const { error } = await rpc(page, 'fail');
      assert.deepEqual([error.message, error.code], ['boom', -32000]);
      assert.equal((await rpc(page, 'nothing')).error.code, -32601);

      await page.evaluate(() => {
        window.chats = [];
        client.on('chat:message', ({ event, data, timestamp }) => chats.push([event, data, typeof timestamp]));
      });
      await rpc(page, 'echo');
      await page.evaluate(() => client.emit('chat:message', { text: 'hello' }));
      await until(page, () => chats.length > 0);
      assert.deepEqual(await page.evaluate(() => chats), [['chat:message', { text: 'hello' }, 'number']]);

      await follow(page, 'dashboard');
      for (let visitors = 1; visitors <= 4; visitors++) {
        assert.deepEqual(await rpc(page, 'bump'), { visitors, active: visitors });
      }
      await until(page, () => client.getState('dashboard')?.visitors === 4);
      const final = { visitors: 4, active: 4, rows: [{ id: 0, n: 1 }, { id: 1, n: 2 }, { id: 2, n: 1 }] };
      assert.deepEqual(await page.evaluate(() => client.getState('dashboard')), final);

      await page.evaluate(() => client.disconnect());
      assert.equal(await page.evaluate(() => client.getConnectionState()), 'disconnected');
    });
  }
});
