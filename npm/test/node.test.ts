// The client in Node on the package `ws`, against a server that refuses upgrades.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { WebSocket, WebSocketServer } from 'ws';
import { DatasoleClient, type DatasoleClientOptions, type Status } from '../src/client.js';
import { nodeSocket } from '../src/node.js';
import { wasmUrl } from './real-core.js';

describe('an upgrade refused in Node', () => {
  let refusal: [status: number, headers: string[]];
  const asked: IncomingMessage[] = [];
  const server = createServer((_, response) => response.writeHead(404).end());
  server.on('upgrade', (request, socket) => {
    asked.push(request);
    const [status, headers] = refusal;
    socket.end([`HTTP/1.1 ${status} No`, 'Content-Length: 0', 'Connection: close', ...headers, '', ''].join('\r\n'));
  });
  before(async () => {
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
  });
  after(() => server.close());

  /** A client on `ws` that is refused, its first status without a connection, and the outcome of `connect`. */
  async function refused(status: number, headers: string[], options: Partial<DatasoleClientOptions> = {}) {
    globalThis.WebSocket = WebSocket as never;
    refusal = [status, headers];
    asked.length = 0;
    const { port } = server.address() as AddressInfo;
    const client = new DatasoleClient({ url: `http://127.0.0.1:${port}`, wasmUrl, auth: { headers: { 'x-key': 'k' } }, ...options });
    const failed = new Promise<Status>((resolve) => {
      client.onStatus((status) => status.reason && status.reason.kind !== 'idle' && resolve(status));
    });
    const opened = client.connect().then(
      () => undefined,
      (error) => error,
    );
    const first = await failed;
    return { client, opened, first };
  }

  it('by a datasole server is final', async () => {
    const { opened, first, client } = await refused(401, ['Datasole-Refused: token']);
    const error = await opened;
    assert.deepEqual([error.name, error.code], ['DatasoleError', -32001]);
    assert.deepEqual([first.state, first.reason], ['disconnected', { kind: 'unauthorized', message: 'the server answered 401' }]);
    assert.equal(client.getConnectionState(), 'disconnected');
    assert.deepEqual(asked.map(({ headers }) => headers['x-key']), ['k']);
  });

  for (const status of [401, 403, 426, 502]) {
    it(`by something in between with ${status} is tried again, and explained`, async () => {
      const { client, opened, first } = await refused(status, [], { reconnectInterval: 60_000 });
      assert.equal(first.state, 'reconnecting');
      assert.equal(first.reason!.httpStatus, status);
      assert.equal(first.reason!.message, `the server answered ${status}`);
      const hint = await new Promise((resolve) => client.onStatus(({ reason }) => reason?.hint && resolve(reason.hint)));
      assert.ok(hint);
      await client.disconnect();
      assert.equal((await opened).code, -32104);
      assert.equal(asked.length, 1);
    });
  }

  for (const [retryAfter, least] of [
    ['120', 120_000],
    ['0', 0],
    ['Fri, 31 Dec 1999 23:59:59 GMT', 0],
  ] as const) {
    it(`is tried again after Retry-After: ${retryAfter}`, async () => {
      const { client, opened, first } = await refused(503, [`Retry-After: ${retryAfter}`], { reconnectInterval: 100 });
      assert.equal(first.state, 'reconnecting');
      assert.ok(first.retryInMs! >= least && first.retryInMs! <= least + 60_000, String(first.retryInMs));
      await client.disconnect();
      await opened;
    });
  }
});

describe('a server of version 1 that ignores the offer of subprotocols', () => {
  it('is connected to, though `ws` takes that for an error', async () => {
    globalThis.WebSocket = WebSocket as never;
    const offers: unknown[] = [];
    const server = new WebSocketServer({ port: 0, host: '127.0.0.1', handleProtocols: () => false });
    server.on('headers', (_, request) => offers.push(request.headers['sec-websocket-protocol']));
    await once(server, 'listening');
    const client = new DatasoleClient({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, wasmUrl });
    await client.connect();
    let protocol: number | undefined;
    client.onStatus((status) => (protocol = status.protocol));
    assert.equal(protocol, 1);
    assert.deepEqual(offers, ['datasole.v1,datasole.v2', undefined]);
    await client.disconnect();
    server.close();
  });
});

describe("the platform's socket", () => {
  /** Bun's has `terminate`, as those of `ws` have. */
  class Native {
    given: unknown[];
    constructor(...given: unknown[]) {
      this.given = given;
    }
    terminate(): void {}
  }

  it('takes headers among its options, where there are any', () => {
    globalThis.WebSocket = Native as never;
    const Socket = nodeSocket({ 'x-key': 'k' })! as unknown as typeof Native;
    const options = { protocols: ['datasole.v2'], headers: { 'x-key': 'k' } };
    assert.deepEqual(new Socket('ws://localhost:1', ['datasole.v2']).given, ['ws://localhost:1', options]);
    assert.equal(nodeSocket({}), undefined, 'it is used as it is');
  });

  it('need not be there', () => {
    globalThis.WebSocket = undefined as never;
    assert.equal(nodeSocket({ 'x-key': 'k' }), undefined);
  });
});
