// What datasole costs a page's main thread and its worker, measured in Chromium against the real server.
//
// CPU time of the thread is the judge, never wall time. The page is one that no automation watches (bench/quiet.mjs), and
// its baselines are in it: a bare worker, which hands over the same texts in the same batches at the same pace as ours did
// just before, so that both start as cold; and `JSON.parse` of the same data in a warm loop. The baseline of our worker is one that
// inflates the same messages and counts them, or only receives them. All take turns in each round.
//
// Standard output has one JSON line per scenario; the exit status is 1 when a bar is missed. Figures are the medians of the
// rounds, after one to warm up, and ratios the medians of the rounds' ratios. `goal` is what the row is to reach, `floor`
// what is known to be possible: of ratios to `JSON.parse` what the bare worker reached in the same run, since data of a thread that
// has slept, in memory that is new, is never read as fast as in a warm loop; of a worker's microseconds what receiving takes.

import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';

import { QuietPage } from './bench/quiet.mjs';
import { Server } from './harness.mjs';

const npm = createRequire(new URL('../../npm/package.json', import.meta.url));
// Node 20 has none.
globalThis.WebSocket ??= npm('ws');
const { DatasoleClient } = await import(new URL('../../npm/dist/client.mjs', import.meta.url));

const ROUNDS = Number(process.env.ROUNDS ?? 9);
const TOPIC = 'chat:message';
const STATE = 'dashboard';
const ROWS = 10_000;
const CLONES = 5;

/** Scenarios of events. `pause`: milliseconds between two; without, all come at once. Ratios are to the bare worker and to `JSON.parse`. */
const EVENTS = [
  { name: 'browser-event-200b-burst', data: () => message(2), count: 500, times: 4, bars: { bare: 1.8 }, goal: { us: 2 }, floor: { us: 1 } },
  {
    name: 'browser-event-2kb-burst',
    data: () => message(20),
    count: 500,
    bars: { bare: 1.35, parse: 3.5, counting: 1 },
    goal: { bare: 1.25, parse: 2, counting: 1.5, worker: 25 },
    floor: { bare: 1, counting: 1 },
  },
  {
    name: 'browser-event-2kb-cyrillic-burst',
    data: () => message(20, 'датчик', 'зал', 'работает как положено, спасибо'),
    count: 500,
    bars: { bare: 1.35 },
    goal: { bare: 1.25 },
    floor: { bare: 1 },
  },
  { name: 'browser-event-20kb-burst', data: () => message(200), count: 100, bars: { bare: 1.25 }, goal: { bare: 1.25 }, floor: { bare: 1 } },
  { name: 'browser-event-1mb', data: () => message(8_800), count: 1, times: 5, bars: { bare: 1.25 }, goal: { parse: 1.45 }, floor: { bare: 1 } },
  {
    name: 'browser-event-2kb-stream-1000s',
    data: () => message(20),
    count: 1_000,
    pause: 1,
    bars: { bare: 1.3, parse: 6, counting: 1 },
    goal: { us: 12, parse: 3, counting: 1.5 },
    floor: { us: 8, counting: 1 },
  },
];
/** Of patches: microseconds, and how much faster than a deep clone and fast-json-patch. */
const PATCHES = { name: 'browser-patch-10000-rows', count: 500, bars: { us: 10, advantage: 300 }, goal: { us: 3 }, floor: { us: 0.6 } };

const chosen = process.argv.slice(2);
const selects = ({ name }) => chosen.length === 0 || chosen.some((part) => name.includes(part));

const dist = (name) => fileURLToPath(new URL(`../../npm/dist/${name}`, import.meta.url));
const own = (name) => fileURLToPath(new URL(`bench/${name}`, import.meta.url));

const server = await Server.start('--dev');
const driver = new DatasoleClient({ url: server.url });
let page;
try {
  await driver.connect();
  page = await QuietPage.open('/page.html', {
    '/page.html': own('page.html'),
    '/page.js': own('page.js'),
    '/bare.js': own('bare.js'),
    '/counting.js': own('counting.js'),
    '/fflate.js': fileURLToPath(new URL('../../npm/node_modules/fflate/esm/browser.js', import.meta.url)),
    '/fast-json-patch.min.js': npm.resolve('fast-json-patch/dist/fast-json-patch.min.js'),
    ...Object.fromEntries(['datasole.iife.min.js', 'datasole-worker.v3.js', 'datasole.v3.wasm'].map((name) => [`/${name}`, dist(name)])),
  });
  await page.tell('connect', server.url);
  const texts = page.socket('/texts');
  await page.tell('startBare');
  const socket = await texts;
  await page.tell('startCounting', `${server.url.replace('http', 'ws')}/__ds`);
  const [main, worker, bareWorker, countingWorker] = await page.threads();
  if (!countingWorker) throw new Error('the page has not three workers');
  const threads = { main, worker, bareWorker, countingWorker };

  for (const scenario of EVENTS.filter(selects)) await measureEvents(scenario, threads, socket);
  if (selects(PATCHES)) await measurePatches(PATCHES, threads, socket);
} finally {
  driver.disconnect();
  await page?.close();
  await server.kill();
}

async function measureEvents({ name, data, count, times = 1, pause, bars, goal, floor }, threads, socket) {
  const value = data();
  const text = JSON.stringify(value);
  const entry = JSON.stringify({ t: 'event', event: TOPIC, data: value, timestamp: Date.now() });
  // Several, as V8 may keep what it found in a text.
  await page.tell('texts', Array.from({ length: Math.min(count, 20) }, (_, n) => text.replace('"id":0', `"id":${1_000 + n}`)));
  const emit = () => paced(count, pause, () => driver.emit(TOPIC, value));
  const rounds = await interleaved({
    ours: () => slice(threads, 'events', { topic: TOPIC, count }, times, emit),
    bare: (batches) => slice(threads, 'bareEvents', { count }, times, () => replay(socket, () => entry, count, batches)),
    counting: () => slice(threads, 'countedEvents', { topic: TOPIC, count, inflate: true }, times, emit),
    receiving: () => slice(threads, 'countedEvents', { topic: TOPIC, count }, times, emit),
    parse: () => slice(threads, 'parse', { count }, times, () => {}),
    nothing: () => slice(threads, 'nothing', {}, times, () => {}),
  });
  const per = count * times;
  const figures = {
    ours_us: median(rounds, ({ ours, nothing }) => (ours.main - nothing.main) / per),
    bare_us: median(rounds, ({ bare, nothing }) => (bare.main - nothing.main) / per),
    parse_us: median(rounds, ({ parse, nothing }) => (parse.main - nothing.main) / per),
    ratio_bare: median(rounds, ({ ours, bare, nothing }) => (ours.main - nothing.main) / (bare.main - nothing.main)),
    ratio_parse: median(rounds, ({ ours, parse, nothing }) => (ours.main - nothing.main) / (parse.main - nothing.main)),
    bare_ratio_parse: median(rounds, ({ bare, parse, nothing }) => (bare.main - nothing.main) / (parse.main - nothing.main)),
    worker_us: median(rounds, ({ ours }) => ours.worker / per),
    bare_worker_us: median(rounds, ({ bare }) => bare.bareWorker / per),
    receiving_us: median(rounds, ({ receiving }) => receiving.countingWorker / per),
    counting_us: median(rounds, ({ counting }) => counting.countingWorker / per),
    ratio_counting: median(rounds, ({ ours, counting }) => ours.worker / counting.countingWorker),
    batches: median(rounds, ({ ours }) => ours.batches.length),
  };
  const measured = { parse: Number(figures.bare_ratio_parse.toFixed(2)), worker: Number(figures.receiving_us.toFixed(1)) };
  report(name, text.length, figures, bars, goal, { ...floor, ...measured });
}

async function measurePatches({ name, count, bars, goal, floor }, threads, socket) {
  await driver.rpc('setState', { key: STATE, value: dashboard() });
  await page.tell('follow', STATE);
  let n = 0;
  const entry = () => JSON.stringify({ t: 'patch', key: STATE, rev: ++n, ops: [{ op: 'replace', path: '/rows/0/n', value: n }] });
  const rounds = await interleaved({
    ours: () =>
      slice(threads, 'patches', { key: STATE, count }, 1, () =>
        Promise.all(Array.from({ length: count }, () => driver.rpc('bump', { row: 0 }))),
      ),
    bare: (batches) => slice(threads, 'barePatches', { count }, 1, () => replay(socket, entry, count, batches)),
    clones: () => slice(threads, 'clones', { key: STATE, count: CLONES }, 1, () => {}),
    nothing: () => slice(threads, 'nothing', {}, 1, () => {}),
  });
  const us = ({ ours, nothing }) => (ours.main - nothing.main) / count;
  const clone = ({ clones, nothing }) => (clones.main - nothing.main) / CLONES;
  const figures = {
    ours_us: median(rounds, us),
    bare_us: median(rounds, ({ bare, nothing }) => (bare.main - nothing.main) / count),
    clone_us: median(rounds, clone),
    ratio_bare: median(rounds, ({ ours, bare, nothing }) => (ours.main - nothing.main) / (bare.main - nothing.main)),
    advantage: median(rounds, (round) => clone(round) / us(round)),
    worker_us: median(rounds, ({ ours }) => ours.worker / count),
    bare_worker_us: median(rounds, ({ bare }) => bare.bareWorker / count),
    batches: median(rounds, ({ ours }) => ours.batches.length),
  };
  report(name, undefined, figures, bars, goal, floor);
}

/** Does each in turn, in every round; `bare` gets the batches of `ours`. */
async function interleaved({ ours, bare, ...others }) {
  const rounds = [];
  for (let round = 0; round <= ROUNDS; round++) {
    const result = {};
    const pair = async () => {
      result.ours = await ours();
      result.bare = await bare(result.ours.batches);
    };
    const rest = async () => {
      for (const [name, other] of Object.entries(others)) result[name] = await other();
    };
    for (const part of round % 2 ? [rest, pair] : [pair, rest]) await part();
    rounds.push(result);
  }
  return rounds.slice(1);
}

/** The CPU time of the threads for a command and what `drive` makes of it; microseconds. `times` of it one after the other. */
async function slice(threads, command, argument, times, drive) {
  const names = Object.keys(threads);
  const sum = { ...Object.fromEntries(names.map((name) => [name, 0])), batches: [] };
  for (let time = 0; time < times; time++) {
    await page.tell(command, argument);
    const before = await page.cpu(Object.values(threads));
    const ran = page.tell('run');
    await drive();
    const batches = await ran;
    const after = await page.cpu(Object.values(threads));
    names.forEach((thread, index) => (sum[thread] += after[index] - before[index]));
    sum.batches = batches;
  }
  return sum;
}

/** Does it `count` times: at once, or each so many milliseconds after the one before; what was late is made up for. */
async function paced(count, pause, act) {
  const began = performance.now();
  for (let n = 0; n < count; n++) {
    while (pause && performance.now() - began < n * pause) await sleep(1);
    act();
  }
}

/** Sends the bare worker the texts in batches that end, and come, as `batches` did: when, and how long each was. */
async function replay(socket, text, count, batches) {
  const total = batches.reduce((sum, [, length]) => sum + length, 0);
  const began = performance.now();
  let sent = 0;
  let length = 0;
  for (const [at, one] of batches) {
    length += one;
    const due = Math.round((length / total) * count);
    while (performance.now() - began < at - batches[0][0]) await sleep(1);
    if (due === sent) continue;
    for (; sent < due; sent++) socket.send(text());
    socket.send('');
  }
}

function median(rounds, figure) {
  const figures = rounds.map(figure).sort((a, b) => a - b);
  return figures[Math.floor(figures.length / 2)];
}

/** A bar is for the figure of its name: the ratio to a baseline, microseconds, or at least so much of an advantage. */
function report(bench, bytes, figures, bars, goal, floor) {
  const judged = { us: figures.ours_us, bare: figures.ratio_bare, parse: figures.ratio_parse, counting: figures.ratio_counting };
  const ok = Object.entries(bars).every(([name, bar]) => (name === 'advantage' ? figures.advantage >= bar : judged[name] <= bar));
  if (!ok) process.exitCode = 1;
  const rounded = Object.entries(figures).map(([name, figure]) => [name, Number(figure.toFixed(3))]);
  const line = { bench, unit: 'CPU us per operation', bytes, ...Object.fromEntries(rounded), bar: bars, goal, floor, ok, rounds: ROUNDS };
  console.log(JSON.stringify(line));
}

/** An event's data: a table of readings, about 110 bytes a row. */
function message(count, sensor = 'sensor', hall = 'hall', status = 'running as it should, thank you') {
  const rows = Array.from({ length: count }, (_, id) => ({
    id,
    name: `${sensor} ${id} in ${hall} ${id % 3}`,
    value: 20 + id,
    status,
    active: id % 4 > 0,
  }));
  return { rows };
}

/** What the fixture's `dashboard` is, with many rows of a table's usual width. */
function dashboard() {
  const row = (id) => ({ id, n: 0, name: `row ${id}`, price: id % 97, active: id % 3 > 0 });
  return { visitors: 0, active: 0, rows: Array.from({ length: ROWS }, (_, id) => row(id)) };
}
