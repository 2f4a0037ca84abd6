// Several URLs, of nodes that are one server: a page whose server is gone goes on at another.

import assert from 'node:assert/strict';

import { Server, describeInBrowser, follow, rpc, until } from './harness.mjs';

describeInBrowser((spec) => {
  for (const shared of [false, true]) {
    spec(`a page goes on at another server when its own is gone${shared ? ', in a shared worker' : ''}`, async (world) => {
      const other = await Server.start('--dev');
      try {
        const servers = [world.server, other];
        const options = { url: servers.map(({ url }) => url), shared, reconnectInterval: 50 };
        const page = await world.connected(options);
        await follow(page, 'dashboard');
        const node = async () => (await rpc(page, 'node')).id;
        const nodes = await page.evaluate(
          (urls) =>
            Promise.all(
              urls.map(async (url) => {
                const client = new DatasoleClient({ url });
                await client.connect();
                const { id } = await client.rpc('node');
                await client.disconnect();
                return id;
              }),
            ),
          options.url,
        );
        const used = nodes.indexOf(await node());
        assert.notEqual(used, -1);
        await servers[used].kill();
        await until(page, (id) => client.rpc('node', null, { queue: true }).then((node) => node.id === id, () => false), nodes[1 - used]);
        await rpc(page, 'bump');
        await until(page, () => seen.dashboard.at(-1)?.visitors === 1);
        // A page that comes meanwhile finds the one that is there, its scripts as well.
        const late = await page.evaluate(async (options) => {
          const client = new DatasoleClient({ ...options, shared: false, reconnectInterval: 49 });
          await client.connect();
          return client.rpc('node');
        }, options);
        assert.equal(late.id, nodes[1 - used]);
      } finally {
        await other.kill();
      }
    });
  }
});
