// The demo as a visitor uses it: two tabs in step, calls, chat, a cut that is resumed, a restart that starts anew. Its
// looks are kept as screenshots, for people to judge.

import assert from 'node:assert/strict';

import { NARROW, SMALL, WIDE, describeDemo, keep, onDisk, openDemo, story, tooSmall, visit as visitPage } from './demo.mjs';
import { until } from './harness.mjs';

const ROWS = 40;

describeDemo((spec) => {
  spec('two tabs of the demo stay in step', async (world) => {
    const tabs = [await visit(world), await visit(world)];
    const [first, second] = tabs;
    for (const tab of tabs) await until(tab, () => document.querySelector('#connections').textContent === '2');

    for (const [tab, on] of [[first, false], [second, true]]) {
      await tab.getByRole('switch', { name: 'search in gru' }).click();
      for (const seen of tabs) await seen.locator(`[aria-label="search in gru"][aria-checked=${on}]`).waitFor();
    }

    await say(first, 'one');
    await heard(second, ['one']);
    await say(second, 'two');
    for (const tab of tabs) await heard(tab, ['one', 'two']);
    await heard(await visit(world), ['one', 'two']);

    // The same beat shows the same numbers everywhere.
    const [one, two] = await Promise.all(tabs.map((tab) => tab.evaluate(showing)));
    const beats = Object.keys(one).filter((beat) => beat in two);
    assert.ok(beats.length >= 1, 'both have seen some beats');
    for (const beat of beats) assert.equal(one[beat], two[beat], `beat ${beat}`);
  });

  spec('the demo resumes a cut connection without loss', async (world) => {
    const [cut, other] = [await visit(world), await visit(world)];
    await say(other, 'before');
    await heard(cut, ['before']);
    const id = await cut.locator('#connection-id').textContent();

    await cut.getByRole('button', { name: 'Cut this connection' }).click();
    await story(cut, /^Cut$/);
    await say(other, 'meanwhile');
    await story(cut, /^Resumed: \d+ patch(es)?( and 1 chat message)? replayed$/);
    await heard(cut, ['before', 'meanwhile']);
    assert.notEqual(await cut.locator('#connection-id').textContent(), id);
    assert.equal(await cut.locator('.break').count(), 0, 'nothing was missed');
    await story(other, /^Connected$/);
  });

  spec('what is said in the demo while cut off goes out afterwards', async (world) => {
    const [cut, other] = [await visit(world), await visit(world)];
    await cut.getByRole('button', { name: 'Cut this connection' }).click();
    await story(cut, /^Cut$/);
    await say(cut, 'patience');
    for (const tab of [cut, other]) await heard(tab, ['patience']);
  });

  spec('a restart of the demo is a new epoch in all tabs', async (world) => {
    const tabs = [await visit(world), await visit(world)];
    await say(tabs[0], 'old');
    for (const tab of tabs) await heard(tab, ['old']);
    await tabs[0].getByRole('button', { name: 'Restart the server' }).click();
    for (const tab of tabs) {
      await story(tab, /^New epoch: fresh snapshot$/);
      await until(tab, () => document.querySelector('#instance').textContent.startsWith('no. 2,'));
      await tab.locator('.break.missed').waitFor();
    }
    await say(tabs[1], 'new');
    for (const tab of tabs) await heard(tab, ['old', 'new']);
    await heard(await visit(world), ['new']);
  });

  spec('a restart of a demo with its data on disk is resumed', (world) =>
    onDisk(world, async (world) => {
      const tabs = [await visit(world), await visit(world)];
      await say(tabs[0], 'old');
      for (const tab of tabs) await heard(tab, ['old']);
      await tabs[0].getByRole('button', { name: 'Restart the server' }).click();
      for (const tab of tabs) {
        await story(tab, /^Resumed: \d+ patch(es)? replayed$/);
        await until(tab, () => document.querySelector('#instance').textContent.startsWith('no. 2,'));
        assert.match(await tab.locator('#detail').textContent(), /^Another server went on/);
      }
      await say(tabs[1], 'new');
      for (const tab of [...tabs, await visit(world)]) await heard(tab, ['old', 'new']);
    }));

  spec('calls of the demo are answered, fail and can be cancelled', async (world) => {
    const page = await visit(world);
    const check = async (method, pattern) => {
      await page.locator(`form[data-method=${method}]`).getByRole('button', { name: 'Call' }).click();
      await answer(page, pattern);
    };
    await check('add', /^add{"sum":5}[\d.]+ ms$/);
    await check('echo', /^echo"hello"[\d.]+ ms$/);
    await check('fail', /^failboom \(-32000\)[\d.]+ ms$/);
    const slow = page.locator('form[data-method=slow]');
    await slow.getByLabel('Milliseconds').fill('60000');
    await slow.getByRole('button', { name: 'Call' }).click();
    await slow.getByRole('button', { name: 'Cancel' }).click();
    await answer(page, /^slowcancelled\d+ ms$/);
  });

  spec('the first page has two clients in step, and one that is cut catches up', async (world) => {
    const page = await openDemo(world, '/');
    const [one, other] = ['A', 'B'].map((name) => page.frameLocator(`[title="Client ${name}"]`));
    for (const client of [one, other]) await client.getByText(/^Connected$/).first().waitFor();
    await other.getByRole('switch', { name: 'gateway in fra' }).click();
    await one.locator('[aria-label="gateway in fra"][aria-checked=false]').waitFor();
    await one.getByRole('button', { name: 'Cut' }).click();
    await one.getByText(/^Cut$/).first().waitFor();
    await other.getByRole('switch', { name: 'gateway in fra' }).click();
    await other.locator('[aria-label="gateway in fra"][aria-checked=true]').waitFor();
    assert.equal(await one.locator('[aria-label="gateway in fra"]').getAttribute('aria-checked'), 'false');
    await keep(page, 'demo-first-cut', SMALL, 'light', false);
    await one.getByRole('button', { name: 'Try now' }).click();
    await one.getByText(/^Resumed: \d+ patch(es)? replayed$/).first().waitFor();
    await one.locator('[aria-label="gateway in fra"][aria-checked=true]').waitFor();
    for (const [name, size, scheme] of [['demo-first', SMALL, 'light'], ['demo-first-dark', SMALL, 'dark'], ['demo-first-phone', NARROW, 'light']]) {
      await keep(page, name, size, scheme, false);
      for (const client of [one, other]) {
        await client.getByRole('button', { name: 'Cut' }).click({ trial: true });
        // The first row is seen whole, where the fleet is.
        const [row, fleet] = await Promise.all(['tbody tr', '.scroll'].map((part) => client.locator(part).first().boundingBox()));
        const end = Math.min(fleet.y + fleet.height, size.height);
        assert.ok(row.y + row.height <= end, `${name}: the first row ends at ${row.y + row.height}, what is seen at ${end}`);
      }
    }
    assert.deepEqual(await tooSmall(page), []);
    await page.getByRole('link', { name: 'Open the board' }).click();
    await story(page, /^Connected$/);
  });

  spec('a finger finds everything, and the first thing to do without scrolling', async (world) => {
    const page = await openDemo(world, '/dashboard');
    for (const [path, first] of [['/dashboard', '#total'], ['/board', '#editor']]) {
      await page.goto(world.server.url + path);
      await story(page, /^Connected$/);
      for (const size of [NARROW, SMALL]) {
        await page.setViewportSize(size);
        const box = await page.locator(first).boundingBox();
        assert.ok(box.y + Math.min(box.height, 200) < size.height, `${path}: ${first} begins at ${box.y} of ${size.height}`);
      }
      await page.setViewportSize(NARROW);
      assert.deepEqual(await tooSmall(page), [], path);
    }
  });

  spec('the connection’s panel opens in the demo, whose policy is strict', async (world) => {
    const page = await visit(world);
    await page.getByRole('button', { name: 'See what happens' }).click();
    await page.getByRole('tab', { name: 'Streams' }).click();
    await page.locator('.stream', { hasText: 'dashboard' }).waitFor();
  });

  spec('the looks of the demo', async (world) => {
    const [page, other] = [await visit(world), await visit(world)];
    await page.getByLabel('You are').fill('Heron');
    await other.getByLabel('You are').fill('Marten');
    const lines = ['Is anyone else seeing auth run hot?', 'Yes. I have switched two of them off.', 'Still there?'];
    await say(page, lines[0]);
    await heard(page, lines.slice(0, 1));
    await say(other, lines[1]);
    for (const region of ['fra', 'gru']) await other.getByRole('switch', { name: `auth in ${region}` }).click();
    for (const method of ['add', 'echo', 'fail']) await page.locator(`form[data-method=${method}] button`).click();
    await answer(page, /boom/);
    await page.getByRole('button', { name: 'Cut this connection' }).click();
    await story(page, /^Cut$/);
    await keep(page, 'demo-cut', WIDE, 'light', false);
    await say(other, lines[2]);
    await story(page, /^Resumed/);
    await heard(page, lines);
    await until(page, () => Number(document.querySelector('#beat').textContent) > 36);
    for (const scheme of ['light', 'dark']) {
      await keep(page, `demo-${scheme}`, WIDE, scheme, true);
      await keep(page, `demo-narrow-${scheme}`, NARROW, scheme, true);
    }
  });
});

/** A tab whose dashboard is filled. */
async function visit(world) {
  const page = await visitPage(world, '/dashboard');
  await until(page, (rows) => document.querySelectorAll('#fleet tr').length === rows, ROWS);
  return page;
}

/** In the page: what the next beats look like, by their number. */
function showing() {
  return new Promise((resolve) => {
    const seen = {};
    const beat = document.querySelector('#beat');
    const observer = new MutationObserver(() => {
      const { textContent } = document.querySelector('#fleet');
      seen[beat.textContent] = textContent + document.querySelector('#total').textContent;
      if (Object.keys(seen).length === 6) {
        observer.disconnect();
        resolve(seen);
      }
    });
    observer.observe(beat, { childList: true });
  });
}

async function say(page, text) {
  await page.getByLabel('Message', { exact: true }).fill(text);
  await page.getByRole('button', { name: 'Send' }).click();
}

/** Waits until the page shows exactly these messages. */
function heard(page, messages) {
  const shown = (text) => [...document.querySelectorAll('#messages .said')].map((item) => item.textContent).join('\n') === text;
  return until(page, shown, messages.join('\n'));
}

/** Waits for a call's line. */
function answer(page, pattern) {
  return page.locator('#answers li', { hasText: pattern }).waitFor();
}
