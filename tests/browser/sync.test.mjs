// Pages, tabs and a server that comes and goes: everyone ends with the server's state.

import assert from 'node:assert/strict';

import { connect, describeInBrowser, follow, rpc, until, untilState } from './harness.mjs';

/** The largest frame payload, bytes. */
const LIMIT = 1_048_576;
/** More than any frame adds around a state's value, and less than a row of `stateOf`. */
const ENVELOPE = 160;

describeInBrowser((spec) => {
  for (const useWorker of [true, false]) {
    const mode = useWorker ? 'worker' : 'in-thread';

    spec(`two tabs stay in step, ${mode}`, async (world) => {
      const tabs = [await world.connected({ useWorker }), await world.connected({ useWorker })];
      for (const tab of tabs) await follow(tab, 'dashboard');
      const bumps = tabs.map((tab) => tab.evaluate(() => Promise.all(Array.from({ length: 50 }, () => client.rpc('bump')))));
      await Promise.all(bumps);
      for (const tab of tabs) await until(tab, () => client.getState('dashboard')?.visitors === 100);
      const [first, second] = await Promise.all(tabs.map((tab) => tab.evaluate(() => client.getState('dashboard'))));
      assert.deepEqual(first, second);
      assert.deepEqual(first, await rpc(tabs[0], 'getState', { key: 'dashboard' }));
    });

    spec(`a late joiner gets the current state first, ${mode}`, async (world) => {
      const early = await world.connected({ useWorker });
      for (let n = 0; n < 10; n++) await rpc(early, 'bump');
      const late = await world.connected({ useWorker });
      await follow(late, 'dashboard');
      await until(late, () => seen.dashboard.length >= 2);
      const [before, current] = await late.evaluate(() => seen.dashboard.map((value) => value?.visitors));
      assert.deepEqual([before, current], [undefined, 10]);
    });

    spec(`a killed and restarted server: new epoch, right state, ${mode}`, async (world) => {
      const page = await world.connected({ useWorker, reconnectInterval: 50 });
      await rpc(page, 'setState', { key: 'gone', value: 'with the server' });
      await follow(page, 'gone');
      await untilState(page, 'gone', 'with the server');
      await follow(page, 'dashboard');
      for (let n = 0; n < 3; n++) await rpc(page, 'bump');
      await until(page, () => client.getState('dashboard')?.visitors === 3);

      await world.server.kill();
      await until(page, () => client.getConnectionState() === 'reconnecting');
      await world.server.restart();
      await until(page, () => client.getConnectionState() === 'connected');
      await until(page, () => client.getState('gone') === undefined);
      assert.equal((await rpc(page, 'bump')).visitors, 1);
      await until(page, () => client.getState('dashboard')?.visitors === 1);
      assert.deepEqual(
        await page.evaluate(() => client.getState('dashboard')),
        await rpc(page, 'getState', { key: 'dashboard' }),
      );
    });
  }

  spec('a state of just under 1 MB arrives whole, and so does a change of it', async (world) => {
    const [writer, reader] = [await world.connected(), await world.connected()];
    const value = stateOf(LIMIT - ENVELOPE);
    await follow(reader, 'big');
    assert.deepEqual(await rpc(writer, 'setState', { key: 'big', value }), { ok: true });
    await untilState(reader, 'big', value);
    value[17].n += 1;
    assert.deepEqual(await rpc(writer, 'setState', { key: 'big', value }), { ok: true });
    await untilState(reader, 'big', value);
    const late = await world.connected();
    await follow(late, 'big');
    await untilState(late, 'big', value);
  });

  spec('a state over 1 MB is refused, and nothing else happens', async (world) => {
    const page = await world.connected();
    await rpc(page, 'setState', { key: 'big', value: 'small' });
    const { error } = await rpc(page, 'setState', { key: 'big', value: 'x'.repeat(LIMIT) });
    assert.equal(error.name, 'DatasoleError');
    assert.match(error.message, /large|big|limit|exceed/i);
    assert.equal(await rpc(page, 'getState', { key: 'big' }), 'small');
    assert.equal(await page.evaluate(() => client.getConnectionState()), 'connected');
  });

  spec('every JSON root is a state', async (world) => {
    const page = await world.connected();
    await follow(page, 'root');
    for (const value of [1, 'text', false, [1, 2], { a: 1 }, [], null, { __proto__: null, constructor: 1 }]) {
      await rpc(page, 'setState', { key: 'root', value });
      await untilState(page, 'root', value);
    }
  });
});

/** An array of rows whose JSON text is exactly `bytes` long. */
function stateOf(bytes) {
  const rows = [];
  let size = 2;
  for (let n = 12_345; ; n = (n * 48_271) % 2_147_483_647) {
    const row = { id: rows.length, n, text: n.toString(36).repeat(8) };
    const length = JSON.stringify(row).length + 1;
    if (size + length + ENVELOPE > bytes) break;
    rows.push(row);
    size += length;
  }
  const last = { pad: '' };
  last.pad = 'x'.repeat(bytes - size - JSON.stringify(last).length);
  rows.push(last);
  return rows;
}
