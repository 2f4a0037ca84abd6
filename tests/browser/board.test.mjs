// The counters, the list and the people of the demo's board: in step between tabs, whatever their connections do.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';

import { describeDemo, onDisk, story, visit as visitPage } from './demo.mjs';
import { until } from './harness.mjs';

const TERMINAL = process.env.TERMINAL ?? new URL('../../target/debug/examples/board', import.meta.url).pathname;

describeDemo((spec) => {
  spec('everyone’s clicks add up, those of a tab that is cut as well', async (world) => {
    const tabs = [await visit(world), await visit(world), await visit(world)];
    const [cut, ...others] = tabs;
    await cut.getByRole('button', { name: 'Cut this connection' }).click();
    await story(cut, /^Cut$/);
    await Promise.all(tabs.map((tab) => clicks(tab, 'like', 25)));
    await clicks(cut, 'more', 5);
    await clicks(others[0], 'less', 2);
    await shows(cut, { likes: '25', coffee: '5' });
    for (const other of others) await shows(other, { likes: '50', coffee: '-2' });
    await cut.getByRole('button', { name: 'Try now' }).click();
    await story(cut, /^Merged: 30 changes of yours$/);
    for (const tab of tabs) await shows(tab, { likes: '75', coffee: '3' });
    await shows(await visit(world), { likes: '75', coffee: '3' });
  });

  spec('the list has what anybody adds, and loses what was seen to be done', async (world) => {
    const tabs = [await visit(world), await visit(world)];
    const [cut, other] = tabs;
    for (const item of ['bread', 'cheese', 'wine']) await add(other, item);
    for (const tab of tabs) await list(tab, ['bread', 'cheese', 'wine']);

    await cut.getByRole('button', { name: 'Cut this connection' }).click();
    await story(cut, /^Cut$/);
    await done(cut, 'bread');
    await done(cut, 'wine');
    await add(cut, 'apples');
    await list(cut, ['apples', 'cheese']);
    await done(other, 'cheese');
    await add(other, 'wine');
    await add(other, 'apples');
    await list(other, ['apples', 'bread', 'wine']);

    await cut.getByRole('button', { name: 'Try now' }).click();
    await story(cut, /^Merged: 3 changes of yours$/);
    // The wine was put on the list again by somebody who knew nothing of its having been done.
    for (const tab of tabs) await list(tab, ['apples', 'wine']);
    await done(cut, 'apples');
    for (const tab of tabs) await list(tab, ['wine']);
    await cut.getByRole('button', { name: 'Undo' }).last().click();
    for (const tab of tabs) await list(tab, ['apples', 'wine']);
    assert.equal(await cut.locator('#todo-done').textContent(), '');
  });

  spec('who is here comes, is renamed, and goes', async (world) => {
    const here = await visit(world);
    await rename(here, 'Heron');
    await people(here, ['Heron you']);
    const there = await visit(world);
    await rename(there, 'Marten');
    await people(here, ['Heron you', 'Marten']);
    await people(there, ['Marten you', 'Heron']);
    await rename(there, 'Plover');
    await people(here, ['Heron you', 'Plover']);

    await there.getByRole('button', { name: 'Cut this connection' }).click();
    await people(here, ['Heron you']);
    await there.getByRole('button', { name: 'Try now' }).click();
    await people(here, ['Heron you', 'Plover']);
    await people(there, ['Plover you', 'Heron']);

    await there.close();
    await people(here, ['Heron you']);
  });

  spec('names and colours differ, and stay', async (world) => {
    const tabs = [];
    const colors = (page) =>
      page.evaluate(() => [...document.querySelectorAll('#people i')].map((dot) => dot.style.getPropertyValue('--color')).sort());
    for (let n = 0; n < 6; n++) tabs.push(await visit(world));
    for (const tab of tabs) {
      await until(tab, () => {
        const names = [...document.querySelectorAll('#people b')].map((name) => name.textContent);
        const colors = [...document.querySelectorAll('#people i')].map((dot) => dot.style.getPropertyValue('--color'));
        return new Set(names).size === 6 && new Set(colors).size === 6;
      });
    }
    const [first] = tabs;
    const [name, before] = [await first.getByLabel('You are').inputValue(), await colors(first)];
    await first.reload();
    await story(first, /^Connected$/);
    assert.equal(await first.getByLabel('You are').inputValue(), name);
    await until(first, () => document.querySelectorAll('#people li').length === 6);
    assert.deepEqual(await colors(first), before);
    await first.getByRole('link', { name: 'Dashboard' }).click();
    await story(first, /^Connected$/);
    assert.equal(await first.getByLabel('You are').inputValue(), name);
  });

  spec('what is not yet saved is said, and kept from being closed by mistake', async (world) => {
    const page = await visit(world);
    const unsaved = (text) => page.locator('#saved', { hasText: text }).waitFor();
    await saved(page);
    await page.getByRole('button', { name: 'Cut this connection' }).click();
    await story(page, /^Cut$/);
    await clicks(page, 'like', 1);
    await unsaved(/^1 not yet saved$/);
    await page.locator('.cm-content').click();
    await page.keyboard.type('ab');
    await add(page, 'bread');
    await unsaved(/^4 not yet saved$/);

    const asked = page.waitForEvent('dialog');
    await page.close({ runBeforeUnload: true });
    const dialog = await asked;
    assert.equal(dialog.type(), 'beforeunload');
    await dialog.dismiss();

    await page.getByRole('button', { name: 'Try now' }).click();
    await story(page, /^Merged: 4 changes of yours$/);
    await saved(page);
    const closed = page.waitForEvent('close');
    await page.close({ runBeforeUnload: true });
    await closed;
  });

  spec('two tabs and a terminal share the board', async (world) => {
    const tabs = [await visit(world), await visit(world)];
    await rename(tabs[0], 'Heron');
    await rename(tabs[1], 'Marten');
    const terminal = spawn(TERMINAL, ['--url', world.server.url, '--name', 'Otter'], { stdio: ['pipe', 'pipe', 'inherit'] });
    try {
      const showsInTerminal = watch(terminal);
      for (const tab of tabs) await tab.locator('#people li', { hasText: 'Otter' }).waitFor();
      await add(tabs[0], 'bread');
      await clicks(tabs[1], 'like', 2);
      await tabs[0].locator('.cm-content').focus();
      await tabs[0].keyboard.type('From a tab');
      await showsInTerminal(/here .*Heron.*likes .*\b2\b.*bread.*From a tab/s);

      terminal.stdin.write('+ likes\n- coffee\ntodo soap\ndone bread\ntype , from a terminal\n');
      for (const tab of tabs) {
        await shows(tab, { likes: '3', coffee: '-1' });
        await list(tab, ['soap']);
        await until(tab, () => board.text.toString() === 'From a tab, from a terminal');
      }
      const exit = once(terminal, 'exit');
      terminal.stdin.write('quit\n');
      assert.deepEqual(await exit, [0, null]);
      await people(tabs[0], ['Heron you', 'Marten']);
    } finally {
      terminal.kill('SIGKILL');
    }
  });

  spec('with its data on disk, the board outlives a server that is killed', (world) =>
    onDisk(world, async (world) => {
      const page = await visit(world);
      const write = async (text, item) => {
        await page.locator('.cm-content').focus();
        await page.keyboard.type(text);
        await clicks(page, 'like', 3);
        await add(page, item);
      };
      await write('before', 'bread');
      await saved(page);
      await world.server.kill();
      await until(page, () => board.client.getConnectionState() === 'reconnecting');
      await write(' meanwhile', 'cheese');
      await world.server.restart();
      await page.evaluate(() => document.querySelector('#retry').click());
      await story(page, /^Merged: 14 changes of yours$/);
      for (const tab of [page, await visit(world)]) {
        await shows(tab, { likes: '6' });
        await list(tab, ['bread', 'cheese']);
        await until(tab, () => board.text.toString() === 'before meanwhile');
      }
      // Attempts that nobody could answer.
      const expected = ({ message }) => /WebSocket connection .* failed/.test(message);
      world.errors.splice(0, Infinity, ...world.errors.filter((error) => !expected(error)));
    }));

  spec('the board and the dashboard lead to each other', async (world) => {
    const page = await visit(world);
    await page.getByRole('link', { name: 'Dashboard' }).click();
    await page.getByRole('heading', { name: 'Live state', exact: true }).waitFor();
    await page.getByRole('link', { name: 'Board', exact: true }).click();
    await page.getByRole('heading', { name: 'Notes' }).waitFor();
    await story(page, /^Connected$/);
  });
});

/** A tab with the board. */
function visit(world) {
  return visitPage(world, '/board');
}

function saved(page) {
  return page.locator('#saved', { hasText: /^all saved$/ }).waitFor();
}

/** What waits until a terminal shows something, colours aside. */
function watch({ stdout }) {
  let written = '';
  stdout.on('data', (chunk) => (written += chunk));
  return async (pattern) => {
    const screen = () => written.split('\x1b[2J').at(-1).replace(/\x1b\[\d*m/g, '');
    while (!pattern.test(screen())) await once(stdout, 'data');
  };
}

/** Clicks a button so many times. */
function clicks(page, id, times) {
  return page.evaluate(([id, times]) => {
    for (let n = 0; n < times; n++) document.getElementById(id).click();
  }, [id, times]);
}

/** Waits until these elements show these texts. */
async function shows(page, texts) {
  for (const [id, text] of Object.entries(texts)) {
    await until(page, ([id, text]) => document.getElementById(id).textContent === text, [id, text]);
  }
}

async function add(page, item) {
  await page.getByLabel('Something to do').fill(item);
  await page.getByRole('button', { name: 'Add' }).click();
}

function done(page, item) {
  return page.getByRole('button', { name: `Done: ${item}` }).click();
}

/** Waits until the list is exactly this. */
function list(page, items) {
  return lines(page, '#todo li', items);
}

async function rename(page, name) {
  await page.getByLabel('You are').fill(name);
  await page.keyboard.press('Tab');
}

/** Waits until exactly these are here, `you` behind oneself. */
function people(page, names) {
  return lines(page, '#people li', names);
}

function lines(page, selector, texts) {
  const shown = ([selector, text]) =>
    [...document.querySelectorAll(selector)].map((item) => [...item.children].map((part) => part.textContent).join(' ').trim()).join('\n') === text;
  return until(page, shown, [selector, texts.join('\n')]);
}
