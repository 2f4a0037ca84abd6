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
/** The least contrast of a text with what is behind it. */
const CONTRAST = 4.5;

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

/** Texts with too little contrast, in the page, its frames and its panels; but for those on pictures and those of what is disabled. */
export async function faint(page) {
  const found = page.frames().map((frame) =>
    frame.evaluate(async (least) => {
      // Those that began before another scheme have its colours.
      const ending = document.getAnimations().filter(({ effect }) => effect.getComputedTiming().endTime < Infinity);
      await Promise.allSettled(ending.map(({ finished }) => finished));
      const context = Object.assign(document.createElement('canvas'), { width: 1, height: 1 }).getContext('2d', { willReadFrequently: true });
      /** Red, green, blue and opacity, 0 to 1. */
      const parts = (color) => {
        context.clearRect(0, 0, 1, 1);
        context.fillStyle = color;
        context.fillRect(0, 0, 1, 1);
        return [...context.getImageData(0, 0, 1, 1).data].map((part) => part / 255);
      };
      const over = ([r, g, b, opacity], below) => [r, g, b].map((part, at) => part * opacity + below[at] * (1 - opacity));
      const luminance = (color) =>
        color.reduce((sum, part, at) => sum + [0.2126, 0.7152, 0.0722][at] * (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4), 0);
      const parent = (one) => one.assignedSlot ?? one.parentElement ?? one.getRootNode().host;
      const behind = (one) => {
        if (!one) return matchMedia('(prefers-color-scheme: dark)').matches ? [0.07, 0.07, 0.07] : [1, 1, 1];
        const { backgroundColor, backgroundImage } = getComputedStyle(one);
        if (backgroundImage !== 'none') return undefined;
        const color = parts(backgroundColor);
        if (color[3] === 1) return color.slice(0, 3);
        const below = behind(parent(one));
        return below && over(color, below);
      };
      const opacity = (one) => (one ? getComputedStyle(one).opacity * opacity(parent(one)) : 1);
      const all = (root) => [...root.querySelectorAll('*')].flatMap((one) => [one, ...(one.shadowRoot ? all(one.shadowRoot) : [])]);
      const said = (one) => (one.value ? '' : one.placeholder) || [...one.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE).map((node) => node.data.replace(/[\s\u2060]/g, '')).join('');
      return all(document).flatMap((one) => {
        const text = said(one);
        const ground = text && one.checkVisibility({ visibilityProperty: true }) && !one.closest(':disabled, svg') && behind(one);
        if (!ground) return [];
        const [r, g, b, own] = parts(getComputedStyle(one, one.placeholder && '::placeholder').color);
        const [light, dark] = [luminance(over([r, g, b, own * opacity(one)], ground)), luminance(ground)].sort((a, b) => b - a);
        const contrast = (light + 0.05) / (dark + 0.05);
        return contrast < least ? [`${contrast.toFixed(2)} “${text.slice(0, 40)}” of ${one.tagName.toLowerCase()}.${one.className}`] : [];
      });
    }, CONTRAST),
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

/** Keeps a screenshot, for people to judge; the page must not be wider than its window, nor a text faint. */
export async function keep(page, name, size, colorScheme, fullPage) {
  await page.setViewportSize(size);
  await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
  await page.evaluate(() => scrollTo(0, 0));
  const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(over <= 0, `${name}: ${over} px too wide`);
  assert.deepEqual(await faint(page), [], name);
  await mkdir(ARTIFACTS, { recursive: true });
  await page.screenshot({ path: `${ARTIFACTS}/${name}.png`, fullPage });
}
