// The shared text of the demo's board: two people type in it, whatever their connections do.

import assert from 'node:assert/strict';

import { NARROW, WIDE, describeDemo, keep, story, visit as visitPage } from './demo.mjs';
import { PATIENCE, until } from './harness.mjs';

/** Each is followed by dozens of keystrokes, one after the other, each painted. */
const CUTS = 10;

describeDemo((spec) => {
  spec(`two tabs type in one text, one of them cut ${CUTS} times: nothing is lost or doubled`, async (world) => {
    const [cut, other] = [await visit(world, 'Heron'), await visit(world, 'Marten')];
    let over = false;
    const done = () => over;
    const typing = [typeUntil(done, cut, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'), typeUntil(done, other, 'abcdefghijklmnopqrstuvwxyz')];
    try {
      for (let n = 0; n < CUTS; n++) {
        await press(cut, 'cut');
        await state(cut, 'reconnecting');
        // Both go on meanwhile.
        await unsaved(cut);
        const length = await cut.evaluate(() => board.text.length);
        await until(cut, (length) => board.text.length > length + 25, length);
        await until(other, (length) => board.text.length > length, await other.evaluate(() => board.text.length));
        await press(cut, 'retry');
        await state(cut, 'connected');
      }
    } finally {
      over = true;
    }
    const [big, small] = await Promise.all(typing);
    for (const tab of [cut, other]) await saved(tab);
    const text = await sameText([cut, other]);
    assert.equal(text.length, big.length + small.length);
    assert.ok(text.replace(/[a-z]/g, '') === big, 'all of what was typed in the tab that was cut, in its order');
    assert.ok(text.replace(/[A-Z]/g, '') === small, 'all of what was typed in the other, in its order');
    const late = await visit(world, 'Plover');
    await sameText([cut, other, late]);
    // What the editor shows is the document.
    assert.ok((await shown(late)).startsWith(text.slice(0, 100)));
  }, CUTS * PATIENCE);

  spec('what both change in the same place while one is cut is merged', async (world) => {
    const [cut, other] = [await visit(world, 'Heron'), await visit(world, 'Marten')];
    await type(cut, 'The quick fox.');
    await untilText(other, 'The quick fox.');
    await press(cut, 'cut');
    await state(cut, 'reconnecting');
    await at(cut, 0, 'The quick'.length);
    await type(cut, ' brown');
    await at(other, 0, 'The quick'.length);
    await type(other, ', lazy');
    for (let n = 0; n < 'The '.length; n++) await other.keyboard.press('Control+Home').then(() => other.keyboard.press('Delete'));
    await press(cut, 'retry');
    await story(cut, /^Merged: 6 changes of yours$/);
    const text = await sameText([cut, other]);
    assert.ok(['quick brown, lazy fox.', 'quick, lazy brown fox.'].includes(text), text);
  });

  spec('cursors come with a name, move, and go with their tab', async (world) => {
    const [here, there] = [await visit(world, 'Heron'), await visit(world, 'Marten')];
    const name = (text) => here.locator('.cm-ySelectionInfo', { hasText: text });
    await type(there, 'one two');
    await name('Marten').waitFor();
    assert.equal(await before(here), 'one two');

    await there.keyboard.press('Shift+Control+ArrowLeft');
    await here.locator('.cm-ySelection', { hasText: /^two$/ }).waitFor();
    await there.keyboard.press('Home');
    await here.locator('.cm-ySelection', { hasText: 'two' }).waitFor({ state: 'detached' });
    assert.equal(await before(here), '');

    await there.getByLabel('You are').fill('Plover');
    await there.keyboard.press('Tab');
    await name('Plover').waitFor();
    assert.equal(await name('Marten').count(), 0);

    // A lost connection takes the cursor away, its return brings it back.
    await press(there, 'cut');
    await name('Plover').waitFor({ state: 'detached' });
    await press(there, 'retry');
    await name('Plover').waitFor();

    await there.close();
    await name('Plover').waitFor({ state: 'detached' });
    assert.equal(await here.locator('.cm-ySelectionCaret').count(), 0);
  });

  spec('undo takes back only what this tab did, and redo brings it back', async (world) => {
    const tabs = [await visit(world, 'Heron'), await visit(world, 'Marten')];
    const [mine, theirs] = tabs;
    const both = async (text) => {
      for (const tab of tabs) await untilText(tab, text);
    };
    await mine.locator('.cm-content').focus();
    await mine.keyboard.insertText('mine ');
    await both('mine ');
    await theirs.locator('.cm-content').click();
    await theirs.keyboard.press('Control+End');
    await theirs.keyboard.insertText('theirs ');
    await both('mine theirs ');
    assert.ok(await mine.getByRole('button', { name: 'Redo' }).isDisabled());

    await mine.locator('.cm-content').click();
    await mine.keyboard.press('Control+z');
    await both('theirs ');
    assert.ok(await mine.getByRole('button', { name: 'Undo' }).isDisabled(), 'there is nothing else of its own');
    await mine.keyboard.press('Control+z');
    await mine.getByRole('button', { name: 'Redo' }).click();
    await both('mine theirs ');
    await theirs.getByRole('button', { name: 'Undo' }).click();
    await both('mine ');

    // Without a connection as well.
    await press(mine, 'cut');
    await state(mine, 'reconnecting');
    await theirs.getByRole('button', { name: 'Redo' }).click();
    await mine.getByRole('button', { name: 'Undo' }).click();
    await untilText(mine, '');
    await press(mine, 'retry');
    await both('theirs ');
  });

  spec('the looks of the board', async (world) => {
    const [page, other] = [await visit(world, 'Heron'), await visit(world, 'Marten')];
    const third = await visit(world, 'Plover');
    const lines = [
      'Saturday at the lake',
      '',
      'We meet at ten at the boat house. Bring something warm: the evenings are cold already,',
      'and the last bus back leaves at nine.',
      '',
      'Heron brings bread, Marten brings wood.',
    ];
    await page.locator('.cm-content').focus();
    await page.keyboard.insertText(lines.join('\n'));
    for (const tab of [other, third]) await untilText(tab, lines.join('\n'));
    await at(other, 0);
    await other.keyboard.press('Shift+Home');
    await at(third, 3, 'and the'.length);
    await third.keyboard.press('Shift+Control+ArrowLeft');
    for (const name of ['Marten', 'Plover']) await page.locator('.cm-ySelectionInfo', { hasText: name }).waitFor();
    for (const item of ['Ask whether the boat house has a key to the long table', 'Book the bus', 'Water']) {
      await other.getByLabel('Something to do').fill(item);
      await other.getByRole('button', { name: 'Add' }).click();
    }
    for (let n = 0; n < 12; n++) await press(third, 'like');
    for (let n = 0; n < 3; n++) await press(third, 'more');
    await page.locator('#likes', { hasText: '12' }).waitFor();
    await page.locator('#todo', { hasText: 'Water' }).waitFor();

    await page.getByRole('button', { name: 'Cut this connection' }).click();
    await story(page, /^Cut$/);
    await at(page, lines.length - 1);
    await page.keyboard.type(' And matches.');
    await unsaved(page);
    await keep(page, 'board-cut', WIDE, 'light', false);
    await page.getByRole('button', { name: 'Try now' }).click();
    await story(page, /^Merged/);
    for (const name of ['Marten', 'Plover']) await page.locator('.cm-ySelectionInfo', { hasText: name }).waitFor();
    for (const scheme of ['light', 'dark']) {
      await keep(page, `board-${scheme}`, WIDE, scheme, true);
      await keep(page, `board-narrow-${scheme}`, NARROW, scheme, true);
    }
  });
});

/** A tab with the board, of somebody of that name. */
async function visit(world, name) {
  const page = await visitPage(world, '/board');
  await page.getByLabel('You are').fill(name);
  await page.keyboard.press('Tab');
  return page;
}

/** Presses a button, once a visitor could, without taking the focus from the text. */
async function press(page, id) {
  await until(page, (id) => !document.getElementById(id).hidden, id);
  await page.evaluate((id) => document.getElementById(id).click(), id);
}

/** Waits until the client is in that state. */
function state(page, expected) {
  return until(page, (expected) => board.client.getConnectionState() === expected, expected);
}

function saved(page) {
  return page.locator('#saved', { hasText: /^all saved$/ }).waitFor();
}

function unsaved(page) {
  return page.locator('#saved', { hasText: /^\d+ not yet saved$/ }).waitFor();
}

/** Types into the text, where the cursor is; at its end at first. */
async function type(page, text) {
  await page.locator('.cm-content').focus();
  await page.keyboard.type(text);
}

/**
 * Types letter after letter, over and over, until `done`; answers what. A frame comes before the next: a browser serves keys
 * before timers and before what the test asks, so keys without a pause would hold up both.
 */
async function typeUntil(done, page, letters) {
  await page.locator('.cm-content').focus();
  let typed = '';
  while (!done()) {
    const letter = letters[typed.length % letters.length];
    await page.keyboard.press(letter);
    await page.evaluate(() => new Promise(requestAnimationFrame));
    typed += letter;
  }
  return typed;
}

/** Puts the cursor into a line, after so many characters; at its end without. */
async function at(page, line, index) {
  await page.locator('.cm-content').focus();
  await page.keyboard.press('Control+Home');
  for (let n = 0; n < line; n++) await page.keyboard.press('ArrowDown');
  if (index === undefined) return page.keyboard.press('End');
  for (let n = 0; n < index; n++) await page.keyboard.press('ArrowRight');
}

function untilText(page, text) {
  return until(page, (text) => board.text.toString() === text, text);
}

/** Waits until all have the same text, and answers it. */
async function sameText(pages) {
  const text = await pages[0].evaluate(() => board.text.toString());
  for (const page of pages.slice(1)) await untilText(page, text);
  return text;
}

/** What the editor shows, without others' names. */
function shown(page) {
  return page.locator('.cm-line').first().textContent();
}

/** What is in the first line before the cursor of somebody else. */
function before(page) {
  return page.locator('.cm-ySelectionCaret').evaluate((caret) => {
    const range = new Range();
    range.setStart(caret.closest('.cm-line'), 0);
    range.setEndBefore(caret);
    return range.toString();
  });
}
