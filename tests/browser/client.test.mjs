// How one client behaves towards the page it is in, and what it puts on the wire.

import assert from 'node:assert/strict';
import { EventEmitter, once } from 'node:events';

import { connect, describeInBrowser, follow, refused, rpc, until, untilState } from './harness.mjs';

const OPCODES = { subscribe: 0x13, unsubscribe: 0x15, cancel: 0x16 };

describeInBrowser((spec) => {
  spec('the last handler to leave unsubscribes on the wire', async (world) => {
    const page = await world.open();
    const sent = opcodesSent(page);
    await connect(page, { useWorker: false });
    await page.evaluate(() => {
      window.first = client.subscribeState('dashboard', () => {});
      window.second = client.subscribeState('dashboard', () => {});
    });
    await rpc(page, 'echo');
    const count = (opcode) => sent.filter((one) => one === opcode).length;
    assert.deepEqual([count(OPCODES.subscribe), count(OPCODES.unsubscribe)], [1, 0]);
    await page.evaluate(() => first.unsubscribe());
    await rpc(page, 'echo');
    assert.equal(count(OPCODES.unsubscribe), 0);
    await page.evaluate(() => second.unsubscribe());
    // The key is left some seconds later.
    await sent.until(OPCODES.unsubscribe);
    assert.deepEqual([count(OPCODES.subscribe), count(OPCODES.unsubscribe)], [1, 1]);
  });

  for (const useWorker of [true, false]) {
    spec(`an aborted call rejects at once, ${useWorker ? 'worker' : 'in-thread'}`, async (world) => {
      const page = await world.open();
      const sent = opcodesSent(page);
      await connect(page, { useWorker });
      const error = await page.evaluate(async () => {
        const abort = new AbortController();
        const call = client.rpc('slow', { ms: 3_600_000 }, { signal: abort.signal, timeout: 3_600_000 });
        await client.rpc('echo');
        abort.abort();
        return call.then(() => null, ({ name, code }) => ({ name, code }));
      });
      assert.ok(error?.name === 'AbortError' || error?.code === -32102, JSON.stringify(error));
      assert.equal(await rpc(page, 'echo', 'after'), 'after');
      if (!useWorker) assert.ok(sent.includes(OPCODES.cancel), 'CANCEL was sent');
    });
  }

  // Browsers do not tell why an upgrade was refused: there the number of attempts ends it. A token in a frame is answered.
  for (const [via, options] of [['url', { maxReconnectAttempts: 0 }], ['frame', {}]]) {
    spec(`a refused token rejects connect(), which then stays away, ${via}`, async (world) => {
      const page = await world.open();
      const sockets = [];
      page.on('websocket', (socket) => sockets.push(socket));
      const error = await refused(page, { useWorker: false, auth: { token: 'bad', via }, ...options });
      assert.equal(error.name, 'DatasoleError');
      assert.equal(error.state, 'disconnected');
      await connect(page, { useWorker: false, auth: { token: 'ann', via } });
      assert.equal(await rpc(page, 'echo', 'in'), 'in');
      assert.equal(sockets.length, 2, 'one attempt each');
    });
  }

  spec('two clients in a page do not share anything', async (world) => {
    const page = await world.connected();
    await page.evaluate(async () => {
      window.other = new DatasoleClient({ url: location.origin });
      await other.connect();
      window.heard = { client: [], other: [] };
      client.on('chat:message', ({ data }) => heard.client.push(data));
      other.on('chat:message', ({ data }) => heard.other.push(data));
      await Promise.all([client.rpc('echo'), other.rpc('echo')]);
      client.emit('chat:message', 1);
    });
    await until(page, () => heard.client.length === 1 && heard.other.length === 1);
    await page.evaluate(() => other.disconnect());
    assert.equal(await rpc(page, 'echo', 'still here'), 'still here');
    assert.equal(await page.evaluate(() => other.getConnectionState()), 'disconnected');
  });

  spec('a throwing handler harms no one', async (world) => {
    const page = await world.connected();
    await page.evaluate(() => {
      window.heard = [];
      client.on('chat:message', () => {
        throw new Error('event handler');
      });
      client.on('chat:message', ({ data }) => heard.push(data));
      client.subscribeState('dashboard', () => {
        throw new Error('state handler');
      });
    });
    await follow(page, 'dashboard');
    await page.evaluate(() => client.emit('chat:message', 1));
    await until(page, () => heard.length === 1);
    await page.evaluate(() => client.emit('chat:message', 2));
    await until(page, () => heard.length === 2);
    await rpc(page, 'bump');
    await until(page, () => seen.dashboard.at(-1)?.visitors === 1);
    assert.equal(await rpc(page, 'echo', 'fine'), 'fine');
    const strangers = world.errors.filter(({ message }) => !/^(event|state) handler$/.test(message));
    assert.deepEqual(strangers, []);
    world.errors.length = 0;
  });

  spec('unchanged parts of a state keep their identity', async (world) => {
    const page = await world.connected();
    await follow(page, 'dashboard');
    await rpc(page, 'bump', { row: 0 });
    await until(page, () => client.getState('dashboard')?.rows[0].n === 1);
    await page.evaluate(() => {
      window.before = client.getState('dashboard');
    });
    await rpc(page, 'bump', { row: 0 });
    await until(page, () => client.getState('dashboard').rows[0].n === 2);
    const same = await page.evaluate(() => {
      const after = client.getState('dashboard');
      return [after === before, after.rows[0] === before.rows[0], after.rows[1] === before.rows[1], before.rows[0].n];
    });
    assert.deepEqual(same, [false, false, true, 1]);
  });

  spec('disconnect rejects what is pending and stays disconnected', async (world) => {
    const page = await world.connected();
    const code = await page.evaluate(async () => {
      const call = client.rpc('slow', { ms: 3_600_000 }).catch((error) => error.code);
      await client.disconnect();
      return call;
    });
    assert.equal(code, -32104);
    assert.equal(await page.evaluate(() => client.getConnectionState()), 'disconnected');
    await page.evaluate(() => client.connect());
    await rpc(page, 'setState', { key: 'again', value: 1 });
    await follow(page, 'again');
    await untilState(page, 'again', 1);
  });
});

/** The opcodes of the frames that the page's own sockets send, as they are sent. */
function opcodesSent(page) {
  const sent = [];
  const frames = new EventEmitter();
  page.on('websocket', (socket) =>
    socket.on('framesent', ({ payload }) => {
      sent.push(payload[0]);
      frames.emit('sent');
    }),
  );
  /** Resolves once an opcode has been sent. */
  sent.until = async (opcode) => {
    while (!sent.includes(opcode)) await once(frames, 'sent');
  };
  return sent;
}
