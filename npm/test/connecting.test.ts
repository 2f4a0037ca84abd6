// The facade on the real wasm core: calls, attempts to connect, and the end.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { FakeSocket, HELLO, OP, sent, settled } from './fake-socket.js';
import { connected, makeClient, serveV1, serveV2 } from './real-core.js';

describe('calls', () => {
  it('have their deadline in the core', async () => {
    const { client } = await connected('v1');
    await assert.rejects(client.rpc('slow', null, { timeout: 20 }), {
      name: 'DatasoleError',
      message: 'RPC timeout: slow (20ms)',
      code: -32100,
      retryable: true,
    });
  });

  it('queue for the connection when they may', async () => {
    FakeSocket.serve = serveV2;
    const client = makeClient();
    const queued = client.rpc('echo', 'early', { queue: true });
    assert.equal(client.emit('hello', 1, { queue: true }), true);
    await assert.rejects(client.rpc('echo', 'late'), { code: -32103, retryable: true });
    await client.connect();
    assert.equal(await queued, 'early');
    assert.deepEqual(sent(FakeSocket.all[0]!, OP.emitted).map((frame) => frame.payload), [{ event: 'hello', data: 1 }]);
  });

  it('show the error, code and data of the server', async () => {
    const { client, socket } = await connected('v1');
    const call = client.rpc('fail');
    await settled();
    const error = { code: 17, message: 'boom', data: { why: 1 } };
    socket.frame(OP.response, { correlationId: 1, error }, 1);
    await assert.rejects(call, { ...error, name: 'DatasoleError', retryable: false });
  });

  it('resolve with undefined when there is no result, with null when it is null', async () => {
    const { client, socket } = await connected('v1');
    const calls = [client.rpc('void'), client.rpc('null')];
    await settled();
    socket.frame(OP.response, { correlationId: 1 }, 1);
    socket.frame(OP.response, { correlationId: 2, result: null }, 2);
    assert.deepEqual(await Promise.all(calls), [undefined, null]);
  });
});

describe('connecting', () => {
  it('rejects when the first attempt fails and it was told not to reconnect', async () => {
    FakeSocket.serve = (socket) => socket.drop(1006);
    const client = makeClient({ reconnect: false });
    await assert.rejects(client.connect(), { name: 'DatasoleError', code: -32103, retryable: true });
    await settled();
    assert.deepEqual([FakeSocket.all.length, client.getConnectionState()], [1, 'disconnected']);
    FakeSocket.serve = serveV1;
    await client.connect();
    assert.equal(client.getConnectionState(), 'connected');
  });

  it('tries again until a server answers, and what was sent meanwhile arrives', async () => {
    FakeSocket.serve = (socket) => (FakeSocket.all.length < 3 ? socket.drop(1006) : serveV2(socket));
    const client = makeClient({ reconnectInterval: 1 });
    const opened = client.connect();
    assert.equal(client.connect(), opened);
    const call = client.rpc('echo', 'early');
    assert.equal(client.emit('hello', 1), true);
    await opened;
    assert.equal(await call, 'early');
    assert.equal(FakeSocket.all.length, 3);
    assert.deepEqual(sent(FakeSocket.all[2]!, OP.emitted).map(({ payload }) => payload), [{ event: 'hello', data: 1 }]);
  });

  it('goes on to another server when one does not answer or goes away, and resumes there', async () => {
    let down = '';
    FakeSocket.serve = (socket) => (down && socket.url.startsWith(down) ? socket.drop(1006) : serveV2(socket));
    const client = makeClient({ url: ['http://localhost:1', 'http://localhost:2'], reconnectInterval: 1 });
    await client.connect();
    client.subscribeState('board', () => {});
    await settled();
    const used = () => new URL(FakeSocket.all.at(-1)!.url).origin;
    for (let round = 0; round < 3; round++) {
      const before = used();
      down = before;
      const states: string[] = [];
      const back = new Promise<void>((resolve) => client.onStatus(({ state }) => states.push(state) > 1 && state === 'connected' && resolve()));
      FakeSocket.all.at(-1)!.drop(1012);
      await back;
      assert.notEqual(used(), before);
      assert.deepEqual(sent(FakeSocket.all.at(-1)!, OP.subscribe).map(({ payload }) => payload.since), [{ epoch: 1, seq: 3 }]);
      assert.equal(await client.rpc('echo', round), round);
    }
  });

  it('rejects when as many attempts have failed as may', async () => {
    FakeSocket.serve = (socket) => socket.drop(1006);
    const client = makeClient({ reconnectInterval: 1, maxReconnectAttempts: 2 });
    await assert.rejects(client.connect(), { name: 'DatasoleError', code: -32103, retryable: true });
    assert.deepEqual([FakeSocket.all.length, client.getConnectionState()], [3, 'disconnected']);
  });

  it('rejects when nothing answers in time', async () => {
    FakeSocket.serve = () => {};
    const client = makeClient({ connectTimeout: 300 });
    await assert.rejects(client.connect(), { name: 'DatasoleError', code: -32100, retryable: true });
    assert.equal(client.getConnectionState(), 'disconnected');
  });

  for (const connectTimeout of [Infinity, 2 ** 31]) {
    it(`takes a connectTimeout of ${connectTimeout} for a long time`, async () => {
      FakeSocket.serve = (socket) => (FakeSocket.all.length < 2 ? socket.drop(1006) : serveV2(socket));
      const client = makeClient({ connectTimeout, reconnectInterval: 1 });
      await client.connect();
      assert.equal(client.getConnectionState(), 'connected');
    });
  }

  it('rejects when the socket cannot be made', async () => {
    const client = makeClient({ reconnect: false });
    (globalThis as any).WebSocket = class {
      constructor() {
        throw new SyntaxError('no such protocol');
      }
    };
    await assert.rejects(client.connect(), /no such protocol/);
  });

  it('rejects without a WebSocket, saying what to do', async () => {
    (globalThis as any).WebSocket = undefined;
    await assert.rejects(makeClient().connect(), { code: -32106, message: /globalThis\.WebSocket/ });
  });

  it('rejects when the wasm is missing or something else', async () => {
    for (const file of ['/missing.wasm', fileURLToPath(import.meta.url)]) {
      const client = makeClient({ wasmUrl: file, maxReconnectAttempts: 0 });
      await assert.rejects(client.connect(), { name: 'DatasoleError', code: -32106, message: /wasm/ });
    }
  });

  it('rejects when the url is none', async () => {
    for (const url of ['nonsense', 'ftp://example.org']) {
      await assert.rejects(makeClient({ url }).connect(), { name: 'DatasoleError', code: -32106 });
    }
  });

  it('asks for a token before every attempt', async () => {
    let asked = 0;
    const { socket } = await connected('v1', { getToken: async () => `t${++asked}`, reconnectInterval: 1 });
    assert.equal(socket.url, 'ws://localhost:1/__ds?token=t1');
    socket.drop(4002);
    while (FakeSocket.all.length < 2) await settled();
    assert.equal(FakeSocket.all[1]!.url, 'ws://localhost:1/__ds?token=t2');
  });

  it('fails as unauthorized when there is no token to get', async () => {
    FakeSocket.serve = serveV1;
    const client = makeClient({
      reconnect: false,
      getToken: () => {
        throw new Error('logged out');
      },
    });
    await assert.rejects(client.connect(), { code: -32001, message: /logged out/ });
    assert.equal(FakeSocket.all.length, 0);
  });

  it('keeps the token out of the URL when told to', async () => {
    FakeSocket.serve = (socket) => {
      socket.onframe = ({ opcode, correlation, payload }) => {
        if (opcode !== OP.auth) return;
        assert.deepEqual(payload, { token: 'secret', features: ['batch', 'short'] });
        socket.frame(OP.authed, { userId: 'ann' }, correlation);
        socket.frame(OP.hello, HELLO);
      };
      socket.accept('datasole.v2');
    };
    await makeClient({ auth: { token: 'secret', via: 'frame' } }).connect();
    assert.equal(FakeSocket.all[0]!.url, 'ws://localhost:1/__ds?auth=frame');
  });
});

describe('disconnecting', () => {
  it('closes the socket, rejects calls, and goes on from there', async () => {
    const { client, socket } = await connected('v2');
    const seen: unknown[] = [];
    client.subscribeState('board', (value: any) => seen.push(value));
    await settled();
    socket.onframe = undefined;
    const call = client.rpc('slow');
    client.emit('bye');
    await Promise.all([assert.rejects(call, { code: -32104 }), client.disconnect()]);
    assert.equal(sent(socket, OP.emitted).length, 1, 'what was sent before is not lost');
    assert.equal(socket.closedWith?.code, 1000);
    assert.equal(client.getConnectionState(), 'disconnected');
    await client.connect();
    await settled();
    assert.equal(sent(FakeSocket.all.at(-1)!, OP.subscribe).length, 1);
    assert.equal(seen.length, 3);
  });

  it('leaves other clients alone', async () => {
    const one = await connected('v2');
    const other = await connected('v2');
    await one.client.disconnect();
    assert.equal(await other.client.rpc('echo', 1), 1);
  });
});
