// The demo as a visitor uses it: two tabs in step, calls, chat, a cut that is resumed, a restart that starts anew.

import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';

import { ARTIFACTS, Server, describeInBrowser, until } from './harness.mjs';

const SIZE = { width: 1280, height: 900 };

describeInBrowser((spec) => {
  spec('the demo shows live state, calls, chat, resume and a new epoch', async (world) => {
    const [page, other] = [await visit(world), await visit(world)];
    const rows = await page.locator('#fleet tr').count();
    assert.ok(rows > 0 && (await other.locator('#fleet tr').count()) === rows);

    await page.locator('form[data-method=add] button').click();
    await until(page, () => /\b5\b/.test(document.querySelector('form[data-method=add] output').textContent));

    await page.locator('#text').fill('hello from the other tab');
    await page.locator('#chat button').click();
    for (const tab of [page, other]) await tab.getByText('hello from the other tab').waitFor();

    await page.locator('#cut').click();
    await until(page, () => document.getElementById('state').textContent === 'reconnecting');
    await other.locator('#text').fill('said meanwhile');
    await other.locator('#chat button').click();
    await other.getByText('said meanwhile').waitFor();
    await page.getByText('said meanwhile').waitFor();
    await until(page, () => /^Resumed: .*replayed$/.test(document.getElementById('story').textContent));
    await mkdir(ARTIFACTS, { recursive: true });
    await page.screenshot({ path: `${ARTIFACTS}/demo.png`, fullPage: true });

    await page.locator('#restart').click();
    for (const tab of [page, other]) {
      await until(tab, () => /^New epoch/.test(document.getElementById('story').textContent));
    }
  });
}, () => Server.startBinary('--demo', '--log', 'warn'));

/** A tab whose dashboard is filled. */
async function visit({ server, context, errors }) {
  const page = await context.newPage();
  await page.setViewportSize(SIZE);
  page.on('pageerror', (error) => errors.push(error));
  await page.goto(server.url);
  await until(page, () => document.getElementById('state').textContent === 'connected' && document.querySelector('#fleet tr'));
  return page;
}
