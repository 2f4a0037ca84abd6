// Pages that a server has rendered with React or Vue, and that a browser takes over.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

import { bundled } from './harness.mjs';

export const npm = createRequire(new URL('../../npm/package.json', import.meta.url));
export const entry = (name) => import(new URL(`../../npm/dist/${name}.mjs`, import.meta.url));
globalThis.WebSocket ??= npm('ws').WebSocket;
export const { fetchState } = await entry('ssr');
export const { DatasoleClient } = await entry('client');

/** The changes between the page's rendering and its hydration. */
export const CHANGES = 100;

/** Counts what the mirror is sent. */
export const COUNTED = `
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

export const FRAMEWORKS = {
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

/** A page with what a server has rendered, and a bundle that takes it over; opened. */
export async function openRendered(world, source, html) {
  Object.assign(world.files, await bundled('ssr', source));
  world.files['ssr.html'] = world.files['ssr.html'].replace('<div id="root"></div>', `<div id="root">${html}</div>`);
  return world.open('ssr');
}
