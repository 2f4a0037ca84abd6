/** Clients on the real wasm core, in-thread, against a WebSocket whose server is the test. */
import { readFileSync } from 'node:fs';
import { afterEach, beforeEach } from 'node:test';
import { fileURLToPath } from 'node:url';
import { DatasoleClient, type DatasoleClientOptions } from '../src/client.js';
import { FakeSocket, HELLO, OP } from './fake-socket.js';

const root = new URL('../../../', import.meta.url);
/** The wasm, as a path. */
export const wasmUrl = fileURLToPath(new URL('npm/generated/datasole_wasm_bg.wasm', root));
/** A file of `tests/vectors`. */
export const vector = (name: string) => JSON.parse(readFileSync(new URL(`tests/vectors/${name}.json`, root), 'utf8'));

let clients: DatasoleClient[] = [];

beforeEach(() => {
  FakeSocket.all = [];
  (globalThis as any).WebSocket = FakeSocket;
});

afterEach(async () => {
  await Promise.all(clients.map((client) => client.disconnect()));
  clients = [];
});

export function makeClient(options: Partial<DatasoleClientOptions> = {}): DatasoleClient {
  const client = new DatasoleClient({ url: 'http://localhost:1', wasmUrl, ...options });
  clients.push(client);
  return client;
}

/** A connected client and its socket. */
export async function connected(protocol: 'v1' | 'v2', options?: Partial<DatasoleClientOptions>) {
  FakeSocket.serve = protocol === 'v1' ? serveV1 : serveV2;
  const client = makeClient(options);
  await client.connect();
  return { client, socket: FakeSocket.all.at(-1)! };
}

/** A server of version 1, which says nothing by itself. */
export function serveV1(socket: FakeSocket): void {
  socket.accept('datasole.v1');
}

/** Answers what it is asked, with a state `board` and an event topic at seq 3. */
export function serveV2(socket: FakeSocket): void {
  socket.onframe = ({ opcode, correlation, payload }) => {
    if (opcode === OP.request) {
      socket.frame(OP.response, { correlationId: correlation, result: payload.params }, correlation);
    }
    if (opcode === OP.subscribe) {
      socket.frame(OP.subscribed, { epoch: 1, seq: 3, recovered: false }, correlation);
      if (payload.kind === 'state') {
        socket.frame(OP.snapshot, { key: payload.key, version: 3, data: { n: 0, rest: {} }, epoch: 1, seq: 3 });
      }
    }
  };
  socket.accept('datasole.v2');
  socket.frame(OP.hello, HELLO);
}
