// Devtools: sessions that Chromium records are done again by `datasole replay`; a network that is simulated; the panel, whose looks are
// kept as screenshots, for people to judge.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { promisify } from 'node:util';

import { NARROW, WIDE, keep } from './demo.mjs';
import { PROGRAM, Server, bundled, connect, describeInBrowser, until } from './harness.mjs';

const VECTOR = new URL('../vectors/sessions/cut.jsonl', import.meta.url);
const FOLDED = { width: 1280, height: 800 };

/** The output of `datasole replay` for a session. */
async function replay(text, ...flags) {
  const folder = await mkdtemp(`${tmpdir()}/datasole-session-`);
  try {
    await writeFile(`${folder}/session.jsonl`, text);
    const { stdout } = await promisify(execFile)(PROGRAM, ['replay', `${folder}/session.jsonl`, ...flags], { maxBuffer: 64 << 20 });
    return stdout;
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** Follows a state, calls, edits a CRDT, also without a connection, and resumes: the session of it. */
async function cutAndResume(page, options, saved) {
  await connect(page, { record: true, ...options });
  return page.evaluate(async (saved) => {
    const { saveSession, simulate } = await import('/__ds/datasole-devtools.mjs');
    const once = (holds) =>
      new Promise((resolve) => {
        const look = () => (holds() ? (clearInterval(timer), resolve()) : undefined);
        const timer = setInterval(look, 10);
        look();
      });
    const beat = () => client.getState('dashboard')?.beat ?? 0;
    const board = client.subscribeState('dashboard', () => {});
    const likes = client.crdt.counter('demo:likes');
    likes.increment(2);
    await once(() => beat() && !client.crdt.pending);
    await client.rpc('add', { a: 1, b: 2 });
    const { regions } = client.getState('dashboard');
    simulate(client, { offline: true });
    await once(() => client.getConnectionState() === 'reconnecting');
    likes.increment(3);
    const before = beat();
    simulate(client, { offline: false });
    await client.connect();
    await once(() => beat() > before && !client.crdt.pending);
    const resumed = client.getState('dashboard').regions === regions;
    board.unsubscribe();
    return { text: await saveSession(client, saved), resumed, likes: likes.value() };
  }, saved);
}

const start = () => Server.startProgram('--demo', '--log', 'warn');

describeInBrowser((spec) => {
  for (const useWorker of [true, false]) {
    spec(`a session with a cut, a resume and a CRDT is done again, ${useWorker ? 'worker' : 'in-thread'}`, async (world) => {
      const page = await world.open();
      const sent = [];
      page.on('websocket', (socket) => socket.on('framesent', ({ payload }) => sent.push(Buffer.from(payload).toString('base64'))));
      const { text, resumed, likes } = await cutAndResume(page, { useWorker }, { tokens: useWorker });
      assert.deepEqual([resumed, likes], [true, 5]);
      const lines = text.trim().split('\n').map((line) => JSON.parse(line));
      const of = (t) => lines.filter((line) => line.in?.t === t || line.out?.t === t);
      assert.equal(of('opened').length, 2);
      assert.equal(of('closed').length, 1);
      assert.match(await replay(text), /^\d+ inputs, \d+ outputs: the same\n$/);
      // The second core has sent what the first one really did.
      if (!useWorker) assert.deepEqual(of('send').map(({ out }) => out.bytes), sent);
      if (useWorker && process.env.DATASOLE_WRITE_VECTORS) await writeFile(VECTOR, text);
    });
  }

  spec('a session without its payloads is done again, too', async (world) => {
    const page = await world.open();
    await cutAndResume(page, {});
    const text = await page.evaluate(async () => {
      const { saveSession } = await import('/__ds/datasole-devtools.mjs');
      return saveSession(client, { payloads: true });
    });
    assert.match(await replay(text), /: the same\n$/);
    assert.doesNotMatch(text, /gateway|checkout/);
    assert.match(text, /\\"name\\":\\"xxxxxxx\\"/);
    assert.doesNotMatch(await replay(text, '--show'), /gateway|checkout/);
  });

  spec('tabs that share a connection share its session and its network', async (world) => {
    const tabs = [];
    for (let n = 0; n < 2; n++) tabs.push(await world.connected({ shared: true, record: true }));
    for (const tab of tabs) await tab.evaluate(() => client.rpc('add', { a: 1, b: 2 }));
    const text = await tabs[1].evaluate(async () => {
      const { saveSession, simulate } = await import('/__ds/datasole-devtools.mjs');
      const text = await saveSession(client);
      simulate(client, { drop: true });
      return text;
    });
    assert.equal(text.split('"t":"call"').length - 1, 2);
    assert.match(await replay(text), /: the same\n$/);
    for (const tab of tabs) await until(tab, () => client.getConnectionState() !== 'connected');
    for (const tab of tabs) await until(tab, () => client.getConnectionState() === 'connected');
  });

  spec('a latency is that of a round trip', async (world) => {
    const page = await world.connected();
    const [fast, slow] = await page.evaluate(async () => {
      const { simulate } = await import('/__ds/datasole-devtools.mjs');
      const trip = async () => {
        const begin = performance.now();
        await client.rpc('echo', 1);
        return performance.now() - begin;
      };
      const fast = await trip();
      simulate(client, { latency: 500 });
      return [fast, await trip()];
    });
    assert.ok(slow >= 499 && slow < fast + 1_500, `${fast}, ${slow}`);
  });

  spec('the panel shows what happens, and does it', async (world) => {
    const page = await panel(world);
    const view = page.locator('datasole-devtools .view');
    const tab = (name) => page.getByRole('tab', { name });
    await view.getByText('connected').first().waitFor();

    await tab('Streams').click();
    await page.locator('.stream', { hasText: 'dashboard' }).filter({ hasText: /state · at \d+ · 1 reader · [1-9]\.\d\/s/ }).waitFor();
    await view.locator('.tree .name', { hasText: 'beat' }).waitFor();
    await page.locator('.changed').first().waitFor();
    await view.locator('summary', { hasText: 'server' }).click();
    await view.locator('.name', { hasText: 'uptime' }).waitFor();
    await page.locator('.stream', { hasText: 'demo:likes' }).click();
    await view.locator('.tree', { hasText: /^4$/ }).waitFor();

    await tab('Log').click();
    await page.evaluate(() => void client.rpc('add', { a: 1, b: 2 }));
    await page.getByLabel('Filter').fill('add');
    await view.locator('li', { hasText: 'done' }).filter({ hasText: '"value":{"sum":3}' }).waitFor();
    await view.locator('li', { hasText: 'call' }).locator('summary').first().click();
    await view.locator('pre', { hasText: '"a": 1' }).waitFor();

    await page.evaluate(() => void client.rpc('slow', { ms: 60_000 }).catch(() => {}));
    await tab('Pending').click();
    await view.locator('li', { hasText: 'slow' }).waitFor();

    await tab('Pending').press('ArrowRight');
    assert.equal(await tab('Connection').getAttribute('aria-selected'), 'true');
    await page.getByRole('button', { name: 'Drop' }).click();
    await view.getByText('closed 1006 “simulated by datasole/devtools”').first().waitFor();
    await until(page, () => client.getConnectionState() === 'connected');
    await page.getByRole('button', { name: 'Offline' }).click();
    await page.locator('[data-state=reconnecting]', { hasText: 'reconnecting' }).first().waitFor();
    await page.getByRole('button', { name: 'Offline', pressed: true }).click();
    await until(page, () => client.getConnectionState() === 'connected');

    const download = page.waitForEvent('download');
    await page.getByRole('button', { name: 'Save session' }).click();
    const file = await download;
    assert.match(file.suggestedFilename(), /^session-\d{14}\.jsonl$/);
    assert.match(await replay(await readFile(await file.path(), 'utf8')), /: the same\n$/);

    await page.getByRole('button', { name: 'Smaller' }).click();
    await view.waitFor({ state: 'hidden' });
    await page.getByRole('button', { name: 'Close' }).click();
    assert.equal(await page.locator('datasole-devtools').count(), 0);
  });

  spec('clients of development builds are shown by themselves, and tell the console all the same', async (world) => {
    world.files = await bundled('shown', `
      import { DatasoleClient } from './dist/client.mjs';
      import { openDevtools } from './dist/devtools.mjs';
      Object.assign(globalThis, { DatasoleClient, openDevtools });`);
    const page = await world.open('shown');
    const lines = [];
    page.on('console', (message) => message.type() === 'error' && lines.push(message.text()));
    await page.evaluate(async () => {
      openDevtools();
      window.client = new DatasoleClient({ url: location.origin });
      window.lost = new DatasoleClient({ url: 'http://127.0.0.1:9', workerUrl: '/__ds/datasole-worker.v3.js' });
      await client.connect();
      lost.connect();
    });
    await page.getByRole('combobox', { name: 'Client' }).waitFor();
    // The panel was told of it before it did anything.
    await page.locator('.timeline [data-state=connecting]').waitFor();
    assert.deepEqual(await page.evaluate(() => [__DATASOLE__.length, __DATASOLE__[0] === client, __DATASOLE__[1] === lost]), [2, true, true]);
    await until(page, () => lost.getConnectionState() === 'reconnecting');
    while (!lines.some((line) => line.startsWith('datasole: no connection to http://127.0.0.1:9'))) await page.waitForEvent('console');
    // One that has ended goes.
    const ended = await page.evaluate(async () => {
      await client.disconnect();
      return __DATASOLE__.length === 1 && __DATASOLE__[0] === lost;
    });
    assert.ok(ended);
    const kept = await page.evaluate(async () => {
      window.third = new DatasoleClient({ url: location.origin });
      await third.connect();
      return [__DATASOLE__.length, __DATASOLE__[0] === lost, __DATASOLE__[1] === third];
    });
    assert.deepEqual(kept, [2, true, true]);
  });

  spec('the panel looks as it should', async (world) => {
    const page = await panel(world);
    const tab = (name) => page.getByRole('tab', { name }).click();
    await page.getByRole('button', { name: 'Drop' }).click();
    await page.getByText('simulated').first().waitFor();
    await until(page, () => client.getConnectionState() === 'connected');
    await keep(page, 'devtools-connection', FOLDED, 'light', false);
    await tab('Streams');
    await page.locator('.name', { hasText: 'beat' }).waitFor();
    await keep(page, 'devtools-streams', FOLDED, 'light', false);
    await keep(page, 'devtools-streams-dark', FOLDED, 'dark', false);
    await keep(page, 'devtools-streams-phone', NARROW, 'light', false);
    // A finger finds every button.
    const small = await page.locator('datasole-devtools').evaluate(({ shadowRoot }) =>
      [...shadowRoot.querySelectorAll('button, select, input')].filter((one) => one.getClientRects().length && one.getBoundingClientRect().height < 44).map((one) => one.textContent),
    );
    assert.deepEqual(small, []);
    await tab('Log');
    await page.locator('.log li').nth(5).waitFor();
    await keep(page, 'devtools-log-phone-dark', NARROW, 'dark', false);
    await keep(page, 'devtools-log', WIDE, 'light', false);
  });
}, start);

/** The dashboard of the demo, whose policy is strict, with the panel and a client of its own. */
async function panel(world) {
  const page = await world.context.newPage();
  page.on('pageerror', (error) => world.errors.push(error));
  // Violations of the page's content security policy are among these.
  page.on('console', (message) => message.type() === 'error' && world.errors.push(new Error(message.text())));
  await page.goto(`${world.server.url}/dashboard`);
  await page.evaluate(async () => {
    const { openDevtools } = await import('/__ds/datasole-devtools.mjs');
    window.client = new Datasole.DatasoleClient({ url: location.origin, record: true, reconnectInterval: 50 });
    openDevtools(client);
    await client.connect();
    client.subscribeState('dashboard', () => {});
    client.crdt.counter('demo:likes').increment(4);
    client.on('chat:message', () => {});
  });
  return page;
}
