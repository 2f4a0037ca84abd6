// What the specs of the demo's pages share.

import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';

import { ARTIFACTS, PATIENCE, Server, describeInBrowser } from './harness.mjs';

export const WIDE = { width: 1280, height: 1000 };
export const SMALL = { width: 1280, height: 800 };
export const NARROW = { width: 390, height: 844 };
/** The least size of what a finger has to find, pixels. */
const FINGER = 44;

/** As `describeInBrowser`, each spec with a demo server of its own. */
export function describeDemo(define) {
  describeInBrowser(define, () => Server.startProgram('--demo', '--log', 'warn'));
}

/** Runs `body` with a world whose server keeps its data on disk. */
export async function onDisk({ context, errors }, body) {
  const folder = await mkdtemp(`${tmpdir()}/datasole-demo-`);
  const server = await Server.startProgram('--demo', '--log', 'warn', '--data', folder);
  try {
    await body({ server, context, errors });
  } finally {
    await server.kill();
    await rm(folder, { recursive: true });
  }
}

/** A connected tab, in a window of its own. */
export async function visit(world, path) {
  const page = await openDemo(world, path);
  await story(page, /^Connected$/);
  return page;
}

/** A tab; whatever it complains about on the console fails the spec. */
export async function openDemo({ server, context, errors }, path) {
  const page = await openWindow(context);
  await page.setViewportSize(WIDE);
  await page.emulateMedia({ reducedMotion: 'reduce' });
  page.setDefaultTimeout(PATIENCE);
  page.on('pageerror', (error) => errors.push(error));
  // Violations of the page's content security policy are among these.
  page.on('console', (message) => message.type() === 'error' && errors.push(new Error(message.text())));
  await page.goto(server.url + path);
  return page;
}

/** What can be hit and is smaller than a finger, in the page and its frames; links within text count by their line. */
export async function tooSmall(page) {
  const found = page.frames().map((frame) =>
    frame.evaluate((finger) => {
      const shown = [...document.querySelectorAll('button, a, input, summary')].filter((one) => one.getClientRects().length);
      return shown
        .map((one) => ({ one: one.outerHTML.slice(0, 90), box: one.getBoundingClientRect() }))
        .filter(({ box }) => box.height < finger || box.width < finger)
        .map(({ one, box }) => `${Math.round(box.width)}×${Math.round(box.height)} ${one}`);
    }, FINGER),
  );
  return (await Promise.all(found)).flat();
}

/** A page in front: one that is behind another hears of keys and timers late. */
async function openWindow(context) {
  const own = await context.browser().newContext();
  context.once('close', () => own.close().catch(() => {})); // the browser may be gone
  return own.newPage();
}

/** Waits until the page says that this has just happened. */
export function story(page, pattern) {
  return page.locator('#story', { hasText: pattern }).waitFor();
}

/** Keeps a screenshot, for people to judge; the page must not be wider than its window. */
export async function keep(page, name, size, colorScheme, fullPage) {
  await page.setViewportSize(size);
  await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
  await page.evaluate(() => scrollTo(0, 0));
  const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(over <= 0, `${name}: ${over} px too wide`);
  await mkdir(ARTIFACTS, { recursive: true });
  await page.screenshot({ path: `${ARTIFACTS}/${name}.png`, fullPage });
}
