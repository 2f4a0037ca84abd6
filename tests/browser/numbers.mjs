// Writes docs/numbers.md: what people notice of a page with datasole, measured in Chromium against the real server.
//
// Where there is a floor, the least that any page needs for the same, it is measured beside, in the same pages and in turn.

import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';

import { launch, Server, until, World } from './harness.mjs';
import * as react from './react.mjs';
import { CHANGES, DatasoleClient, FRAMEWORKS, fetchState, openRendered } from './ssr.mjs';
import * as vue from './vue.mjs';

const TABS = 40;
const SSR_ROUNDS = 10;
const CELLS = 100;
const CELL_CHANGES = 20;
const RELOADS = 50;

/** The pages of tabs: the script, and a shared worker that posts the text it was given. */
const TAB = `<script src="/__ds/datasole.iife.min.js"></script><script>
    const bare = (text) => {
      const { port } = (window.worker = new SharedWorker('/bare.js'));
      port.postMessage(text);
      return new Promise((resolve) => (port.onmessage = ({ data }) => resolve(JSON.parse(data))));
    };</script>`;
const PAGES = {
  'tab.html': `<!doctype html>${TAB}`,
  'preloaded.html': `<!doctype html><link rel="modulepreload" href="/__ds/datasole-shared.mjs">${TAB}`,
  'bare.js': `let kept;
    onconnect = ({ ports: [port] }) => (port.onmessage = ({ data }) => port.postMessage((kept = data ?? kept)));`,
  'client.js': `import { DatasoleClient } from '/__ds/client.mjs';
    export const client = DatasoleClient.reuse({ url: location.origin });
    client.connect();`,
};

const [load] = loadavg();
const cores = cpus().length;
/** Other programs had their share of the cores: times are longer than they would be alone. */
const loaded = load > cores ? '\n**Made at a load above 1 per core: times are longer than on a machine of its own.**\n' : '';
const folder = await mkdtemp(join(tmpdir(), 'datasole-numbers-'));
for (const [name, text] of Object.entries(PAGES)) await writeFile(join(folder, name), text);
const browser = await launch();
const rows = [];
try {
  for (const measure of [secondTab, rendered, strictMode, renders, reloads]) {
    const server = await Server.start('--static', folder);
    const context = await browser.newContext();
    try {
      await measure(new World(server, context));
    } finally {
      await context.close();
      await server.kill();
    }
  }
  const text = `# Numbers

Made by \`cargo xtask numbers\`: what people notice of a page, in Chromium ${browser.version()} against the server of the dev profile, on
${cores} × ${cpus()[0].model.trim()} with a load of ${load.toFixed(1)}. A floor is the least that any page needs for the same, measured in the same run.
${loaded}
| what | measured | floor, or what is meant |
|---|---|---|
${rows.map((cells) => `| ${cells.join(' | ')} |`).join('\n')}
`;
  await writeFile(new URL('../../docs/numbers.md', import.meta.url), text);
  console.log(text);
} finally {
  await browser.close();
  await rm(folder, { recursive: true });
}

/** A tab beside one that is connected: from its client's making to its first state. */
async function secondTab({ server, context }) {
  const open = async (name) => {
    const page = await context.newPage();
    await page.goto(`${server.url}/${name}.html`);
    return page;
  };
  const first = await open('tab');
  await first.evaluate(async () => {
    const value = { cards: Array.from({ length: 100 }, (_, id) => ({ id, text: `card ${id}` })) };
    window.client = new Datasole.DatasoleClient({ url: location.origin, shared: true });
    await client.connect();
    await client.rpc('setState', { key: 'board', value });
    client.subscribeState('board', () => {});
    while (!client.getState('board')) await client.rpc('echo');
    await bare(JSON.stringify(value));
  });
  const times = { tab: [], preloaded: [], worker: [], script: [] };
  for (let round = 0; round < 2 * TABS; round++) {
    const name = round % 2 ? 'tab' : 'preloaded';
    const page = await open(name);
    const found = await page.evaluate(async (oursFirst) => {
      const timed = async (body) => {
        const begin = performance.now();
        const { cards } = await body();
        if (cards.length !== 100) throw new Error('another state');
        return performance.now() - begin;
      };
      const datasole = () =>
        timed(() => {
          window.client = new Datasole.DatasoleClient({ url: location.origin, shared: true });
          void client.connect();
          return client.subscribeState('board', () => {}).ready;
        });
      const worker = () => timed(() => bare());
      const script = () => timed(async () => (await (await fetch('/__ds/datasole-probe.mjs')).text(), bare()));
      const found = {};
      const all = Object.entries({ datasole, worker, script });
      for (const [name, body] of oursFirst ? all : all.reverse()) found[name] = await body();
      return found;
    }, round % 4 < 2);
    times[name].push(found.datasole);
    times.worker.push(found.worker);
    times.script.push(found.script);
    await page.close();
  }
  const what = `Second tab with \`shared: true\`, until its first state (100 cards, ${TABS} tabs)`;
  rows.push([`${what}, \`datasole-shared.mjs\` preloaded`, percentiles(times.preloaded), `${percentiles(times.worker)} for a bare shared worker that posts the same text`]);
  rows.push([`The same without preloading`, percentiles(times.tab), `${percentiles(times.script)} for that shared worker after one script has been fetched`]);
}

/** Changes between a page's rendering on a server and its hydration. */
async function rendered(world) {
  const { server, context } = world;
  const other = new DatasoleClient({ url: server.url });
  await other.connect();
  let { visitors } = await other.rpc('bump');
  for (const [name, { render, source }] of Object.entries(FRAMEWORKS)) {
    const times = [];
    for (let round = 0; round < SSR_ROUNDS; round++) {
      const initial = await fetchState(server.url, 'dashboard');
      const tab = await openRendered(world, source, await render(server.url, initial));
      for (let n = 0; n < CHANGES; n++) ({ visitors } = await other.rpc('bump'));
      const { millis, patches, snapshots } = await tab.evaluate(
        ([initial, expected]) =>
          new Promise((resolve) => {
            const root = document.getElementById('root');
            const look = () => root.textContent === expected && resolve({ millis: performance.now() - begin, patches, snapshots });
            new MutationObserver(look).observe(root, { subtree: true, childList: true, characterData: true });
            const begin = performance.now();
            hydrate(new DatasoleClient({ url: location.origin }), initial);
          }),
        [initial, `ready false ${visitors}`],
      );
      assert.deepEqual([patches, snapshots], [Array.from({ length: CHANGES }, (_, at) => initial.seq + 1 + at), []]);
      times.push(millis);
      await tab.close();
    }
    const what = `${name}: ${CHANGES} changes between rendering and hydration, until all are shown (${SSR_ROUNDS} pages)`;
    rows.push([what, `${percentiles(times)}; ${CHANGES} patches, no snapshot`, 'each change once; with worker, WebAssembly and connection']);
  }
  await other.disconnect();
  await context.unroute('**/pages/*');
}

/** React's StrictMode mounts everything twice. */
async function strictMode(world) {
  for (const strict of [false, true]) {
    const page = await react.open(world);
    await page.evaluate(async (strict) => {
      await connected();
      await client.rpc('setState', { key: 'k', value: 'here' });
      window.renders = 0;
      const Value = () => (renders++, h('p', null, useLiveState('k').data));
      show(Value, { strict });
    }, strict);
    await react.text(page, 'here');
    const count = (op) => page.wire.sent.filter((sent) => sent === op).length;
    const [subscribed, ended] = [count(react.OP.subscribe), count(react.OP.unsubscribe)];
    assert.deepEqual([page.wire.sockets, subscribed, ended], [1, 1, 0]);
    const measured = `${page.wire.sockets} connection, ${subscribed} SUBSCRIBE, ${ended} UNSUBSCRIBE, ${await page.evaluate(() => renders)} renders`;
    const meant = strict ? 'the same on the wire; StrictMode renders twice' : 'one while it loads, one with the value';
    rows.push([`React ${await page.evaluate(() => React.version)}${strict ? ', StrictMode' : ''}: one component with one state`, measured, meant]);
    await page.close();
  }
}

/** Components that select a cell each, of which one changes. */
async function renders(world) {
  const frameworks = [
    ['React', react, () => {
      const Cell = ({ at }) => (renders[at]++, h('i', null, useLiveState('cells', (cells) => cells[at]).data));
      show(() => cells.map((_, at) => h(Cell, { key: at, at })));
    }],
    ['Vue', vue, () => {
      const setup = ({ at }) => (({ data }) => () => (renders[at]++, h('i', data.value)))(useLiveState('cells', (cells) => cells[at]));
      const Cell = { props: ['at'], setup };
      show(() => () => cells.map((_, at) => h(Cell, { key: at, at })));
    }],
  ];
  for (const [name, { open, text }, mount] of frameworks) {
    const page = await open(world);
    await page.evaluate(async (count) => {
      await connected();
      window.cells = Array(count).fill(0);
      window.renders = Array(count).fill(0);
      await client.rpc('setState', { key: 'cells', value: cells });
    }, CELLS);
    await page.evaluate(mount);
    await text(page, '0'.repeat(CELLS));
    await page.evaluate(() => renders.fill(0));
    for (let n = 1; n <= CELL_CHANGES; n++) {
      await page.evaluate((n) => client.rpc('setState', { key: 'cells', value: cells.with(42, n) }), n);
      await text(page, `${'0'.repeat(42)}${n}${'0'.repeat(CELLS - 43)}`);
    }
    const counts = await page.evaluate(() => renders);
    const others = counts.reduce((sum, count) => sum + count, 0) - counts[42];
    const measured = `${counts[42]} renders of that cell, ${others} of the other ${CELLS - 1}`;
    rows.push([`${name}: ${CELL_CHANGES} changes of one of ${CELLS} cells, each a component`, measured, 'one render for each change']);
    await page.close();
  }
}

/** A module that makes a client, evaluated again as a development server does. */
async function reloads({ server, context }) {
  const page = await context.newPage();
  await page.goto(`${server.url}/tab.html`);
  const { clients, connections } = await page.evaluate(async (count) => {
    const clients = new Set();
    for (let version = 0; version <= count; version++) clients.add((await import(`/client.js?v=${version}`)).client);
    const [client] = clients;
    await client.connect();
    return { clients: clients.size, connections: (await client.rpc('metrics')).connections };
  }, RELOADS);
  const measured = `${clients} client, ${page.workers().length} worker, ${connections} connection`;
  rows.push([`\`DatasoleClient.reuse\`: ${RELOADS} reloads of its module`, measured, 'as before the first']);
}

/** The median and the 95th percentile. */
function percentiles(times) {
  const sorted = times.toSorted((a, b) => a - b);
  const at = (share) => sorted[Math.ceil(share * sorted.length) - 1].toFixed(1);
  return `p50 ${at(0.5)} ms, p95 ${at(0.95)} ms`;
}
