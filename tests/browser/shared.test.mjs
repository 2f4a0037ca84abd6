// `shared: true`: the tabs of an origin in a real SharedWorker, with one connection.

import assert from 'node:assert/strict';

import { describeInBrowser, follow, rpc, until, untilState } from './harness.mjs';

/** Tabs open at once, whose numbers are measured. */
const ROUNDS = 7;
/** How long the second tab may take from `connect` to its first state, the worker running; milliseconds. */
const FIRST_STATE = 10;

/** Calls JavaScript in the shared workers. */
async function inWorkers(page, expression) {
  const session = await page.context().browser().newBrowserCDPSession();
  const { targetInfos } = await session.send('Target.getTargets');
  const workers = targetInfos.filter(({ type }) => type === 'shared_worker');
  for (const { targetId } of workers) {
    const { sessionId } = await session.send('Target.attachToTarget', { targetId, flatten: false });
    await session.send('Target.sendMessageToTarget', {
      sessionId,
      message: JSON.stringify({ id: 1, method: 'Runtime.evaluate', params: { expression } }),
    });
  }
  await session.detach();
  return workers.length;
}

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
    const times = [];
    for (let round = 0; round < ROUNDS; round++) {
      const page = await world.open();
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
    times.sort((a, b) => a - b);
    console.log(`second tab: first state after ${times.map((time) => time.toFixed(1)).join(', ')} ms`);
    assert.ok(times[ROUNDS >> 1] <= FIRST_STATE, `the median is ${times[ROUNDS >> 1]} ms`);
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

  for (const [how, expression] of [
    ['worker is terminated', 'self.close()'],
    // The next time the core asks for the time.
    ['wasm panics', `performance.now = () => { delete performance.now; throw new Error('panicked'); }`],
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
      assert.equal(await inWorkers(a, expression), 1);
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
