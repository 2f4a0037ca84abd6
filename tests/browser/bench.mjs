// What datasole costs a page's main thread, measured in Chromium against the real server.
//
// CPU time of the thread is the judge (DevTools' task time in thread ticks), never wall time. Standard output has one
// JSON line per scenario in the shape of the server's benchmarks; the exit status is 1 when a bar is missed. Each line is
// the median of its rounds, after one to warm up; a page is driven by another page with a client of its own, so that
// nothing but receiving falls on the measured thread.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

import { launch, Server, World, follow, rpc } from './harness.mjs';

const npm = createRequire(new URL('../../npm/package.json', import.meta.url));

const ROUNDS = 9;
const FRAMES = 500;
const PATCHES = 500;
const CLONES = 20;
const ROWS = 10_000;

/** What a bar is compared with. */
const BARS = { frame: 10, patch: 10, advantage: 300 };

const server = await Server.start();
const browser = await launch();
try {
  const world = new World(server, await browser.newContext());
  const [driver, page] = [await world.connected(), await world.connected()];
  const cpu = await meter(page);

  const frame = await median(() => burst(driver, page, cpu));
  const parse = await median(() => parses(page, cpu));
  report({ bench: 'browser-frame-2kb-burst', ours_us: frame, baseline_us: parse, bar: BARS.frame, ok: frame < BARS.frame });

  await page.addScriptTag({ path: npm.resolve('fast-json-patch/dist/fast-json-patch.min.js') });
  await rpc(driver, 'setState', { key: 'dashboard', value: dashboard() });
  await follow(page, 'dashboard');
  await page.waitForFunction(() => client.getState('dashboard'));
  const ours = await median(() => patches(driver, page, cpu));
  const baseline = await median(() => clones(page, cpu));
  const ok = ours < BARS.patch && baseline / ours >= BARS.advantage;
  report({
    bench: 'browser-patch-10000-rows',
    ours_us: ours,
    baseline_us: baseline,
    advantage: baseline / ours,
    bar: BARS.patch,
    bar_advantage: BARS.advantage,
    ok,
  });
} finally {
  await browser.close();
  await server.kill();
}

/** A burst of events of 2 KB each: microseconds per event, its handler included. */
async function burst(driver, page, cpu) {
  const done = page.evaluate(
    (count) =>
      new Promise((resolve) => {
        let left = count;
        const handler = () => {
          if (--left > 0) return;
          client.off('chat:message', handler);
          resolve();
        };
        client.on('chat:message', handler);
      }),
    FRAMES,
  );
  await rpc(page, 'echo');
  const before = await cpu();
  await driver.evaluate(
    ([data, count]) => {
      for (let n = 0; n < count; n++) client.emit('chat:message', data);
    },
    [message(), FRAMES],
  );
  await done;
  return ((await cpu()) - before) / FRAMES;
}

/** What no client can do without: `JSON.parse` of the same data. Microseconds each. */
async function parses(page, cpu) {
  const before = await cpu();
  const rows = await page.evaluate(
    ([text, count]) => {
      let rows = 0;
      for (let n = 0; n < count; n++) rows += JSON.parse(text).rows.length;
      return rows;
    },
    [JSON.stringify(message()), FRAMES],
  );
  assert.equal(rows, FRAMES * message().rows.length);
  return ((await cpu()) - before) / FRAMES;
}

/** One-cell patches of the large state: microseconds per patch, the handler's call included. */
async function patches(driver, page, cpu) {
  const target = await page.evaluate((count) => client.getState('dashboard').rows[0].n + count, PATCHES);
  const done = page.evaluate(
    (target) =>
      new Promise((resolve) => {
        const { unsubscribe } = client.subscribeState('dashboard', ({ rows }) => {
          if (rows[0].n < target) return;
          queueMicrotask(unsubscribe);
          resolve();
        });
      }),
    target,
  );
  await rpc(page, 'echo');
  const before = await cpu();
  await driver.evaluate((count) => {
    for (let n = 0; n < count; n++) client.rpc('bump', { row: 0 });
  }, PATCHES);
  await done;
  return ((await cpu()) - before) / PATCHES;
}

/** The same patches on the same state by deep clone and fast-json-patch: microseconds per patch. */
async function clones(page, cpu) {
  const before = await cpu();
  const last = await page.evaluate((count) => {
    let state = client.getState('dashboard');
    for (let n = 0; n < count; n++) {
      const patch = [{ op: 'replace', path: '/rows/0/n', value: n }];
      state = jsonpatch.applyPatch(jsonpatch.deepClone(state), patch).newDocument;
    }
    return state.rows[0].n;
  }, CLONES);
  assert.equal(last, CLONES - 1);
  return ((await cpu()) - before) / CLONES;
}

/** Reads the CPU time that the page's main thread has spent in tasks; microseconds. */
async function meter(page) {
  const session = await page.context().newCDPSession(page);
  await session.send('Performance.enable', { timeDomain: 'threadTicks' });
  return async () => {
    const { metrics } = await session.send('Performance.getMetrics');
    return metrics.find(({ name }) => name === 'TaskDuration').value * 1e6;
  };
}

async function median(measure) {
  await measure();
  const results = [];
  for (let round = 0; round < ROUNDS; round++) results.push(await measure());
  results.sort((a, b) => a - b);
  return results[Math.floor(ROUNDS / 2)];
}

function report(line) {
  if (!line.ok) process.exitCode = 1;
  const round = (value) => (typeof value === 'number' ? Number(value.toFixed(3)) : value);
  const rounded = Object.entries({ ...line, unit: 'CPU us per operation', rounds: ROUNDS });
  console.log(JSON.stringify(Object.fromEntries(rounded.map(([key, value]) => [key, round(value)]))));
}

/** An event's data of 2 KB: a table of readings. */
function message() {
  const rows = Array.from({ length: 20 }, (_, id) => ({
    id,
    name: `sensor ${id} in hall ${id % 3}`,
    value: 20 + id,
    status: 'running as it should, thank you',
    active: id % 4 > 0,
  }));
  return { rows };
}

/** What the fixture's `dashboard` is, with many rows of a table's usual width. */
function dashboard() {
  const row = (id) => ({ id, n: 0, name: `row ${id}`, price: id % 97, active: id % 3 > 0 });
  return { visitors: 0, active: 0, rows: Array.from({ length: ROWS }, (_, id) => row(id)) };
}
