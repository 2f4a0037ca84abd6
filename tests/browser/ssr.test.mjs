// Pages that a server has rendered: their states go on where the server was, in React and in Vue.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

import { PATIENCE, bundled, describeInBrowser, until } from './harness.mjs';

const npm = createRequire(new URL('../../npm/package.json', import.meta.url));
const entry = (name) => import(new URL(`../../npm/dist/${name}.mjs`, import.meta.url));
globalThis.WebSocket ??= npm('ws').WebSocket;
const { fetchState } = await entry('ssr');
const { DatasoleClient } = await entry('client');

/** The changes between the page's rendering and its hydration. */
const CHANGES = 100;

/** Counts what the mirror is sent. */
const COUNTED = `
  import { DatasoleClient } from 'datasole/client';
  const counted = (client) => {
    const { store } = client;
    window.snapshots = [];
    window.patches = [];
    const { snapshot, patch } = store;
    store.snapshot = (key, rev, value) => (snapshots.push(rev), snapshot.call(store, key, rev, value));
    store.patch = (key, rev, ops) => (patches.push(rev), patch.call(store, key, rev, ops));
    return client;
  };
  window.DatasoleClient = DatasoleClient;
  window.errors = [];
`;

/** The component, the same on both sides. */
const React = npm('react');
const { renderToString } = npm('react-dom/server');
const page = ({ createElement: h }, { DatasoleProvider, useLiveState }, client, initial, use = () => {}) => {
  const Board = () => {
    const board = useLiveState('dashboard', undefined, { initial });
    use(board);
    return h('p', null, `${board.status} ${board.stale} ${board.data?.visitors}`);
  };
  return h(DatasoleProvider, { client }, h(Board));
};

const FRAMEWORKS = {
  React: {
    async render(url, initial) {
      return renderToString(page(React, await entry('react'), new DatasoleClient({ url }), initial));
    },
    source: `${COUNTED}
      import * as React from 'react';
      import { hydrateRoot } from 'react-dom/client';
      import * as hooks from 'datasole/react';
      const page = ${page};
      window.hydrate = (client, initial, use) => {
        hydrateRoot(document.getElementById('root'), page(React, hooks, counted(client), initial, use), {
          onRecoverableError: (error) => errors.push(String(error)),
        });
      };`,
  },
  Vue: {
    async render(url, initial) {
      const { createSSRApp, h } = npm('vue');
      const composables = await import(new URL('../../npm/dist/vue.mjs', import.meta.url));
      const client = new DatasoleClient({ url });
      const app = createSSRApp({ setup: vueSetup(h, composables, initial) }).use(composables.datasole(client));
      const html = await npm('vue/server-renderer').renderToString(app);
      assert.equal(client.getConnectionState(), 'disconnected');
      return html;
    },
    source: `${COUNTED}
      import { createSSRApp, h } from 'vue';
      import * as composables from 'datasole/vue';
      const vueSetup = ${vueSetup};
      window.hydrate = (client, initial, use) => {
        const app = createSSRApp({ setup: vueSetup(h, composables, initial, use) }).use(composables.datasole(counted(client)));
        app.config.warnHandler = (message) => errors.push(message);
        app.mount('#root');
      };`,
  },
};

function vueSetup(h, { useLiveState }, initial, use = () => {}) {
  return () => {
    const board = useLiveState('dashboard', undefined, { initial });
    return () => {
      const [status, stale, data] = [board.status.value, board.stale.value, board.data.value];
      use({ status, stale, data });
      return h('p', `${status} ${stale} ${data?.visitors}`);
    };
  };
}

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
      Object.assign(world.files, await bundled('ssr', source));
      world.files['ssr.html'] = world.files['ssr.html'].replace('<div id="root"></div>', `<div id="root">${html}</div>`);
      const tab = await world.open('ssr');
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
        Object.assign(world.files, await bundled('ssr', source));
        world.files['ssr.html'] = world.files['ssr.html'].replace('<div id="root"></div>', `<div id="root">${html}</div>`);
        const tab = await world.open('ssr');
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
        Object.assign(world.files, await bundled('ssr', source));
        world.files['ssr.html'] = world.files['ssr.html'].replace('<div id="root"></div>', `<div id="root">${html}</div>`);
        const tab = await world.open('ssr');
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
