// `datasole serve` without handlers of its own: the flags alone.

import assert from 'node:assert/strict';

import { Server, describeInBrowser, rpc, until } from './harness.mjs';

describeInBrowser((spec) => {
  spec('--relay passes an event on to every client, and no other event', async (world) => {
    const pages = [await world.connected(), await world.connected()];
    for (const page of pages) {
      await page.evaluate(() => {
        window.heard = [];
        for (const event of ['move', 'secret']) client.on(event, ({ event, data }) => heard.push([event, data]));
      });
      // Answered after the subscriptions.
      assert.equal((await rpc(page, 'nothing')).error.code, -32601);
    }
    await pages[0].evaluate(() => {
      client.emit('secret', 0);
      client.emit('move', { x: 1 });
      client.emit('move', null);
    });
    for (const page of pages) {
      await until(page, () => heard.length === 2);
      assert.deepEqual(await page.evaluate(() => heard), [['move', { x: 1 }], ['move', null]]);
    }
  });
}, () => Server.startProgram('--relay', 'move', '--history', 'move=10', '--log', 'warn'));
