// Pages that a server has rendered: their states go on where the server was, in React and in Vue.

import assert from 'node:assert/strict';

import { PATIENCE, describeInBrowser, until } from './harness.mjs';
import { CHANGES, COUNTED, DatasoleClient, FRAMEWORKS, entry, fetchState, npm, openRendered } from './ssr.mjs';

describeInBrowser((spec) => {
  spec('Vue: what was rendered is taken over as it is, by a client that is connected, too', async (world) => {
    const { createSSRApp, h } = npm('vue');
    const { url } = world.server;
    const setup = (h, { useConnection, useLiveState }, initial) => () => {
      const [{ state }, { data }] = [useConnection(), useLiveState('dashboard', undefined, { initial })];
      return () => h('p', `${state.value} ${data.value?.visitors}`);
    };
    const other = new DatasoleClient({ url });
    await other.connect();
    try {
      await other.rpc('bump');
      const initial = await fetchState(url, 'dashboard');
      const composables = await entry('vue');
      const app = createSSRApp({ setup: setup(h, composables, initial) }).use(composables.datasole(new DatasoleClient({ url })));
      const html = await npm('vue/server-renderer').renderToString(app);
      assert.match(html, />disconnected 1</);
      const source = `${COUNTED}
        import { createSSRApp, h } from 'vue';
        import * as composables from 'datasole/vue';
        window.hydrate = (client, initial) => {
          const app = createSSRApp({ setup: (${setup})(h, composables, initial) }).use(composables.datasole(client));
          app.config.warnHandler = (message) => errors.push(message);
          app.mount('#root');
        };`;
      const tab = await openRendered(world, source, html);
      await other.rpc('bump');
      await tab.evaluate(async (initial) => {
        window.client = new DatasoleClient({ url: location.origin });
        await client.connect();
        // It has the newer value before the page is taken over.
        await new Promise((known) => client.subscribeState('dashboard', (value) => value && known()));
        hydrate(client, initial);
      }, initial);
      await until(tab, () => document.getElementById('root').textContent === 'connected 2');
      assert.deepEqual(await tab.evaluate(() => errors), []);
    } finally {
      await other.disconnect();
    }
  });

  for (const [name, { render, source }] of Object.entries(FRAMEWORKS)) {
    spec(`${name}: ${CHANGES} changes between rendering and hydration arrive, each once`, async (world) => {
      const { url } = world.server;
      const other = new DatasoleClient({ url });
      await other.connect();
      try {
        assert.equal(await fetchState(url, 'dashboard'), undefined, 'there is none yet');
        assert.match(await render(url, undefined), /loading false undefined/);
        for (let n = 0; n < 3; n++) await other.rpc('bump');
        const initial = await fetchState(url, 'dashboard');
        const html = await render(url, initial);
        assert.match(html, /ready true 3/);
        const tab = await openRendered(world, source, html);
        for (let n = 0; n < CHANGES; n++) await other.rpc('bump');

        await tab.evaluate(async (initial) => {
          window.seen = [];
          window.client = new DatasoleClient({ url: location.origin });
          hydrate(client, initial, ({ status, data }) => seen.push([status, data?.visitors]));
        }, initial);
        await until(tab, (last) => document.getElementById('root').textContent === `ready false ${last}`, 3 + CHANGES);
        await other.rpc('bump');
        await until(tab, (last) => document.getElementById('root').textContent === `ready false ${last}`, 4 + CHANGES);
        const { errors, snapshots, patches, seen } = await tab.evaluate(() => ({ errors, snapshots, patches, seen }));
        console.log(`${name}: ${patches.length} patches, ${snapshots.length} snapshots, ${seen.length} renders`);
        assert.deepEqual(errors, [], 'the markup is the same');
        assert.deepEqual(snapshots, []);
        assert.deepEqual(patches, Array.from({ length: CHANGES + 1 }, (_, at) => initial.seq + 1 + at));
        assert.deepEqual(seen[0], ['ready', 3], 'no flash');
        assert.ok(seen.every(([status]) => status === 'ready'));
      } finally {
        await other.disconnect();
      }
    });

    spec(`${name}: a server that was started anew meanwhile sends the whole state`, async (world) => {
      const other = new DatasoleClient({ url: world.server.url, reconnectInterval: 20 });
      await other.connect();
      try {
        for (let n = 0; n < 3; n++) await other.rpc('bump');
        const initial = await fetchState(world.server.url, 'dashboard');
        const html = await render(world.server.url, initial);
        const tab = await openRendered(world, source, html);
        await world.server.kill();
        await world.server.restart();
        await other.rpc('bump', undefined, { queue: true, timeout: PATIENCE });
        await tab.evaluate((initial) => {
          window.client = new DatasoleClient({ url: location.origin });
          hydrate(client, initial);
        }, initial);
        await until(tab, () => document.getElementById('root').textContent === 'ready false 1');
        assert.deepEqual(await tab.evaluate(() => [errors, patches, snapshots.length]), [[], [], 1]);
      } finally {
        await other.disconnect();
      }
    });
  }
});
