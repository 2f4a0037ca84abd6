// Where the core runs: in frames without an origin, and in service workers, which have no page of their own.

import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';

import { Server, describeInBrowser, until } from './harness.mjs';

const folder = await mkdtemp(join(tmpdir(), 'datasole-pages-'));
after(() => rm(folder, { recursive: true }));

const CLIENT = `
  const client = new Datasole.DatasoleClient({ url: new URL('/', location.href).href });
  client.connect().then(() => parent.postMessage(client.getConnectionState(), '*'), (error) => parent.postMessage(error.message, '*'));`;
const PAGES = {
  'frame.html': `<!doctype html><script src="/__ds/datasole.iife.min.js"></script><script>${CLIENT}</script>`,
  'around.html': `<!doctype html><script>onmessage = ({ data }) => (window.told = data);</script>
    <iframe sandbox="allow-scripts" src="frame.html"></iframe>`,
  'caller.html': `<!doctype html><script>
    navigator.serviceWorker.onmessage = ({ data }) => (window.told = data);
    navigator.serviceWorker.register('/service.mjs', { type: 'module' });
    navigator.serviceWorker.ready.then(({ active }) => active.postMessage('connect'));</script>`,
  'service.mjs': `
    import '/__ds/worker.mjs';
    import { DatasoleClient } from '/__ds/client.mjs';
    onmessage = (event) => {
      const client = new DatasoleClient();
      const told = client.connect().then(() => client.getConnectionState(), (error) => error.message);
      event.waitUntil(told.then((state) => event.source.postMessage(state)));
    };`,
};
for (const [name, text] of Object.entries(PAGES)) await writeFile(join(folder, name), text);

describeInBrowser((spec) => {
  for (const [what, file] of [
    ['a sandboxed frame, whose worker is made of a blob', 'around'],
    ['a module service worker', 'caller'],
  ]) {
    spec(`${what}, connects`, async (world) => {
      const page = await world.context.newPage();
      page.on('pageerror', (error) => world.errors.push(error));
      await page.goto(`${world.server.url}/${file}.html`);
      await until(page, () => window.told);
      assert.equal(await page.evaluate(() => told), 'connected');
    });
  }
}, () => Server.startProgram('--static', folder, '--allow-origin', '*', '--log', 'warn'));
