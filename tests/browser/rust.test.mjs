// The page in Rust only (examples/rust-page): the client of native programs over the browser's WebSocket.

import assert from 'node:assert/strict';

import { describeInBrowser, PATIENCE, Server } from './harness.mjs';

const PAGE = process.env.RUST_PAGE ?? new URL('../../target/rust-page', import.meta.url).pathname;

const shows = (page, id, pattern) => page.locator(`#${id}`, { hasText: pattern }).waitFor();

async function visit({ server, context, errors }) {
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  page.on('pageerror', (error) => errors.push(error));
  await page.goto(`${server.url}/index.html`);
  return page;
}

describeInBrowser(
  (spec) => {
    spec('a page in Rust only has state, a CRDT and calls', async (world) => {
      const [one, other] = [await visit(world), await visit(world)];
      for (const page of [one, other]) {
        await shows(page, 'status', /^connected \(version 2\)$/);
        await shows(page, 'beat', /^\d+$/);
        await shows(page, 'likes', /^0$/);
      }
      const before = Number(await one.locator('#beat').textContent());
      await one.waitForFunction((before) => Number(document.getElementById('beat').textContent) > before, before);
      await one.locator('#like').click();
      await other.locator('#like').click();
      for (const page of [one, other]) await shows(page, 'likes', /^2$/);
      await one.locator('#add').click();
      await shows(one, 'sum', /^5$/);
    });

    spec('a page in Rust only comes back, with what was done meanwhile', async (world) => {
      const page = await visit(world);
      await shows(page, 'likes', /^0$/);
      await world.server.kill();
      await shows(page, 'status', /^(attempt \d+ in|reconnecting)/);
      await page.locator('#like').click();
      await shows(page, 'likes', /^1$/);
      await page.locator('#add').click();
      await world.server.restart();
      await shows(page, 'status', /^connected/);
      const other = await visit(world);
      await shows(other, 'likes', /^1$/);
    });

    spec('a page in Rust only waits while the browser is offline', async (world) => {
      const page = await visit(world);
      await shows(page, 'status', /^connected/);
      await world.context.setOffline(true);
      await world.server.kill();
      await shows(page, 'status', /^waiting for attempt/);
      await world.server.restart();
      await world.context.setOffline(false);
      await shows(page, 'status', /^connected/);
    });
  },
  () => Server.startProgram('--demo', '--log', 'warn', '--static', PAGE),
);
