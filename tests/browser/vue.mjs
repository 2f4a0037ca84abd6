// Pages with Vue and the composables of `datasole/vue`.

import { bundled, until, wire } from './harness.mjs';

/** Opcodes. */
export const OP = { subscribe: 0x13, unsubscribe: 0x15 };

const KIT = `
  import * as Vue from 'vue';
  import * as composables from 'datasole/vue';
  import { useDocument } from 'datasole/vue/yjs';
  import { DatasoleClient } from 'datasole/client';
  import { live } from 'datasole/live';
  const { createApp, h } = Vue;
  /** Renders a component made of its setup function into the page, in place of the one before. */
  const show = (setup) => {
    window.app?.unmount();
    window.app = createApp({ setup }).use(composables.datasole(window.client));
    window.app.mount('#root');
  };
  const connected = async () => {
    window.client = DatasoleClient.reuse({ url: location.origin, useWorker: false });
    await client.connect();
  };
  Object.assign(window, composables, { Vue, h, show, connected, useDocument, DatasoleClient, live });
`;

let files;

/** A page with all that `KIT` names, connected. */
export const open = async (world) => {
  files ??= bundled('vue', KIT);
  Object.assign(world.files, await files);
  const page = await world.open('vue');
  page.wire = wire(page);
  await page.evaluate(() => connected());
  return page;
};

/** Until the page shows a text, and no other. */
export const text = (page, expected) => until(page, (expected) => document.getElementById('root').textContent === expected, expected);
