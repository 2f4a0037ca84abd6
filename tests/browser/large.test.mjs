// A state of 8 MB in a page, of a server that has raised its limit: the browser's half of `tests/large.rs`.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect as dial, createServer } from 'node:net';

import { PATIENCE, Server, connect, describeInBrowser, follow, rpc, until } from './harness.mjs';

const MIB = 1_048_576;
const ROWS = 120_000;
/** Changes that nobody reads, each of the whole: together far more than the sockets between have room for. */
const ROUNDS = 7;
/** What two changes and a connection may take: more than they do, and far less than the state. */
const LITTLE = 20_000;

/** Passes connections on to a server, but for what it holds back. */
class Proxy {
  /** Bytes that went down. */
  down = 0;
  #pairs = new Set();
  #isHeld = false;

  static async start(port) {
    const proxy = new Proxy();
    proxy.server = createServer((page) => proxy.#pass(page, dial(port, '127.0.0.1'))).listen(0, '127.0.0.1');
    await once(proxy.server, 'listening');
    return proxy;
  }

  get url() {
    return `http://127.0.0.1:${this.server.address().port}`;
  }

  /** Reads nothing more of what comes down. */
  hold() {
    this.#isHeld = true;
    for (const { server } of this.#pairs) server.pause();
  }

  release() {
    this.#isHeld = false;
    for (const { server } of this.#pairs) server.resume();
  }

  /** Ends what is open. */
  cut() {
    for (const { page, server } of this.#pairs) [page, server].forEach((socket) => socket.destroy());
  }

  end() {
    this.cut();
    this.server.close();
  }

  #pass(page, server) {
    const pair = { page, server };
    this.#pairs.add(pair);
    server.on('data', (chunk) => (this.down += chunk.length));
    page.pipe(server).pipe(page);
    if (this.#isHeld) server.pause();
    for (const socket of [page, server]) {
      socket.on('error', () => socket.destroy());
      socket.on('close', () => {
        this.#pairs.delete(pair);
        [page, server].forEach((other) => other.destroy());
      });
    }
  }
}

describeInBrowser(
  (spec) => {
    spec('a state of 8 MB is followed, resumed and conflated', async (world) => {
      const writer = await world.connected();
      await rpc(writer, 'fill', { rows: ROWS, round: 0 });

      const proxy = await Proxy.start(world.server.port);
      try {
        const reader = await world.open();
        await connect(reader, { url: proxy.url, reconnectInterval: 50 });
        const empty = proxy.down;
        await follow(reader, 'dashboard');
        await until(reader, (count) => client.getState('dashboard')?.rows.length === count, ROWS);
        const whole = proxy.down - empty;
        assert.ok(await isWhole(reader), 'the whole has come');
        assert.ok((await reader.evaluate(() => JSON.stringify(client.getState('dashboard')).length)) > 8_000_000);

        // A change is a few bytes, and so is what a page misses that comes back.
        const before = proxy.down;
        await rpc(writer, 'bump', { row: 50_000 });
        await until(reader, () => client.getState('dashboard').rows[50_000].n === 1);
        proxy.cut();
        await rpc(writer, 'bump', { row: 60_000 });
        await until(reader, () => client.getState('dashboard').rows[60_000].n === 1);
        assert.ok(proxy.down - before < LITTLE, `${proxy.down - before} bytes for two changes and a connection`);

        // To one who does not read, changes are not sent one by one.
        proxy.hold();
        const held = proxy.down;
        for (let round = 1; round <= ROUNDS; round++) await rpc(writer, 'fill', { rows: ROWS, round });
        proxy.release();
        await until(reader, (rounds) => client.getState('dashboard').rows[0].n === rounds, ROUNDS);
        const wholes = (proxy.down - held) / whole;
        assert.ok(wholes < ROUNDS - 1, `${wholes.toFixed(1)} wholes of ${ROUNDS}`);
        assert.ok(await isWhole(reader), 'nothing is missing');

        const late = await world.connected();
        await follow(late, 'dashboard');
        await until(late, (count) => client.getState('dashboard')?.rows.length === count, ROWS);
        assert.ok(await isWhole(late), 'who comes then is shown the whole');
      } finally {
        proxy.end();
      }
    }, (ROUNDS + 4) * PATIENCE);
  },
  () => Server.start('--max-payload', String(64 * MIB), '--dev'),
);

/** Whether a page shows what the server has. */
function isWhole(page) {
  return page.evaluate(async () => {
    const [shown, stored] = [client.getState('dashboard'), await client.rpc('getState', { key: 'dashboard' })];
    return JSON.stringify(shown) === JSON.stringify(stored);
  });
}
