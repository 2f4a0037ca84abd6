// `shared: true`: the tabs of an origin in a real SharedWorker, with one connection.

import assert from 'node:assert/strict';

import { describeInBrowser, follow, rpc, until, untilState } from './harness.mjs';

/** Second tabs opened at least, and at most: a busy machine gives a quiet moment to one of many. */
const [ROUNDS, MOST_ROUNDS] = [7, 40];
/** How long the second tab may take to its first state, milliseconds; on a machine that does other things, twice what none can do without. */
const FIRST_STATE = 10;

/** The one shared worker of the browser, and the protocol to speak about it. */
async function sharedWorker(page) {
  const session = await page.context().browser().newBrowserCDPSession();
  const { targetInfos } = await session.send('Target.getTargets');
  const [{ targetId }, ...others] = targetInfos.filter(({ type }) => type === 'shared_worker');
  assert.deepEqual(others, []);
  return { session, targetId };
}

async function terminate(page) {
  const { session, targetId } = await sharedWorker(page);
  await session.send('Target.closeTarget', { targetId });
}

/** Makes the core trap when it next asks for the time. */
async function panic(page) {
  const { session, targetId } = await sharedWorker(page);
  const { sessionId } = await session.send('Target.attachToTarget', { targetId, flatten: false });
  const expression = `performance.now = () => { delete performance.now; throw new Error('panicked'); }`;
  const message = JSON.stringify({ id: 1, method: 'Runtime.evaluate', params: { expression } });
  await session.send('Target.sendMessageToTarget', { sessionId, message });
}

/** Asks for a script, and connects to a shared worker that does nothing but say its name: no tab can be faster. */
const bare = async () => {
  const begin = performance.now();
  await (await fetch('/__ds/datasole-probe.mjs')).text();
  const worker = (window.worker = new SharedWorker('/__ds/datasole-worker.v3.js', { name: `datasole ${'0'.repeat(64)}` }));
  const told = new Promise((resolve) => (worker.port.onmessage = resolve));
  worker.port.postMessage('bare');
  await told;
  return performance.now() - begin;
};

const connectionId = (page) =>
  page.evaluate(() => {
    let id;
    client.onStatus((status) => (id = status.connectionId))();
    return id;
  });

describeInBrowser((spec) => {
  spec('tabs have one connection, and the second one its first state at once', async (world) => {
    const first = await world.connected({ shared: true });
    const cards = Array.from({ length: 100 }, (_, id) => ({ id, text: `card ${id}` }));
    await rpc(first, 'setState', { key: 'board', value: { cards } });
    await follow(first, 'board');
    await until(first, () => seen.board.at(-1)?.cards);
    // Kept by the first tab, so that it runs.
    await first.evaluate(bare);
    const [times, floors] = [[], []];
    const isFast = () => Math.min(...times) <= Math.max(FIRST_STATE, 2 * Math.min(...floors));
    for (let round = 0; round < ROUNDS || (round < MOST_ROUNDS && !isFast()); round++) {
      const page = await world.open();
      // Every request of a page would wait for this process.
      await world.context.unroute('**/pages/*');
      floors.push(await page.evaluate(bare));
      times.push(
        await page.evaluate(async () => {
          const begin = performance.now();
          window.client = new DatasoleClient({ url: location.origin, shared: true });
          void client.connect();
          await new Promise((resolve) => client.subscribeState('board', (value) => value && resolve()));
          return performance.now() - begin;
        }),
      );
      assert.equal(await connectionId(page), await connectionId(first));
      await page.close();
    }
    const told = (sorted) => `${sorted[0].toFixed(1)} ms (median ${sorted[sorted.length >> 1].toFixed(1)})`;
    for (const all of [times, floors]) all.sort((a, b) => a - b);
    console.log(`second tab: first state after ${told(times)}; a script and a shared worker's first message take ${told(floors)}`);
    assert.ok(isFast(), `${times} ms, ${floors} ms`);
  });

  spec('a closed tab leaves nothing, and the last one no connection', async (world) => {
    const [a, b] = [await world.connected({ shared: true }), await world.connected({ shared: true })];
    await a.evaluate(() => client.presence('room').join({ tab: 'a' }));
    await b.evaluate(() => {
      window.members = [];
      client.presence('room').subscribe((all) => (window.members = all.map(({ value }) => value.tab)));
    });
    await until(b, () => members.join() === 'a');
    await a.close();
    await until(b, () => members.length === 0);
    assert.equal((await rpc(b, 'metrics')).connections, 1);
    await b.close();
    const watcher = await world.connected();
    await until(watcher, async () => (await client.rpc('metrics')).connections === 1);
  });

  for (const [how, end] of [
    ['worker is terminated', terminate],
    ['wasm panics', panic],
  ]) {
    spec(`all tabs connect anew when their ${how}, and lose nothing`, async (world) => {
      const [a, b] = [await world.connected({ shared: true }), await world.connected({ shared: true })];
      for (const page of [a, b]) {
        await follow(page, 'board');
        await page.evaluate(() => {
          window.votes = client.crdt.counter('votes');
          votes.increment();
        });
      }
      for (const page of [a, b]) await until(page, () => votes.value() === 2 && votes.pending === 0);
      await b.evaluate(() => {
        window.lost = new Promise((resolve) => client.onStatus(({ state }) => state === 'reconnecting' && resolve()));
      });
      // Under way, or not even sent, when the worker ends.
      for (const page of [a, b]) await page.evaluate(() => votes.increment(10));
      await end(a);
      for (const page of [a, b]) await page.evaluate(() => votes.increment(100));
      await b.evaluate(() => lost);
      for (const page of [a, b]) await until(page, () => votes.value() === 222 && votes.pending === 0);
      assert.equal(await connectionId(a), await connectionId(b));
      await rpc(a, 'setState', { key: 'board', value: 'again' });
      for (const page of [a, b]) await untilState(page, 'board', 'again');
      world.errors.length = 0;
    });
  }
});
