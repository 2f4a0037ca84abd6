// Pages with React and the hooks of `datasole/react`.

import assert from 'node:assert/strict';

import { bundled, until, wire } from './harness.mjs';

/** Opcodes. */
export const OP = { batch: 0x1d, subscribe: 0x13, unsubscribe: 0x15, snapshot: 0x06 };

const KIT = `
  import * as React from 'react';
  import { createRoot, hydrateRoot } from 'react-dom/client';
  import * as datasole from 'datasole/react';
  import { useDocument } from 'datasole/react/yjs';
  import { DatasoleClient } from 'datasole/client';
  import { live } from 'datasole/live';
  const h = React.createElement;
  const root = () => createRoot(document.getElementById('root'));
  /** Renders into the page, with a client on this thread. */
  const show = (component, { strict = false, ...options } = {}) => {
    const tree = h(datasole.DatasoleProvider, { options: { url: location.origin, useWorker: false, ...options } }, h(component));
    window.root ??= root();
    window.root.render(strict ? h(React.StrictMode, null, tree) : tree);
  };
  const client = () => DatasoleClient.reuse({ url: location.origin, useWorker: false });
  const connected = async () => (await client().connect(), (window.client = client()));
  Object.assign(window, datasole, { React, h, root: undefined, newRoot: root, hydrateRoot, show, clientOf: client, connected, useDocument, DatasoleClient, live });
`;

let files;

/** A page with all that `KIT` names. */
export const open = async (world) => {
  files ??= bundled('react', KIT);
  Object.assign(world.files, await files);
  const page = await world.open('react');
  page.wire = wire(page);
  assert.equal(await page.evaluate(() => React.version.split('.')[0]), process.env.REACT ?? '19');
  return page;
};

/** Until the page shows a text, and no other. */
export const text = (page, expected) => until(page, (expected) => document.getElementById('root').textContent === expected, expected);
