// Channels on the real wasm core, in-thread, against a WebSocket whose server is the test.
import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { DatasoleClient, type ChannelHandlers } from '../src/client.js';
import { FakeSocket, HELLO, OP, sent, settled } from './fake-socket.js';

const wasmUrl = fileURLToPath(new URL('../../../npm/generated/datasole_wasm_bg.wasm', import.meta.url));

let client: DatasoleClient;

beforeEach(() => {
  FakeSocket.all = [];
  (globalThis as any).WebSocket = FakeSocket;
  client = new DatasoleClient({ url: 'http://localhost:1', wasmUrl, reconnectInterval: 1 });
});

afterEach(() => client.disconnect());

/** Answers subscriptions: from `since`, or with a whole entry at 1:3; documents are called 7. */
function serve(socket: FakeSocket): void {
  socket.onframe = ({ opcode, correlation, payload }) => {
    if (opcode !== OP.subscribe) return;
    const { kind, key, since } = payload;
    if (key === 'secret') return socket.frame(OP.error, { message: 'no', code: -32002 }, correlation);
    const at = since ?? { epoch: 1, seq: 3 };
    if (kind === 'doc') return socket.frame(OP.subscribed, { ...at, recovered: false, channel: 7 }, correlation);
    socket.frame(OP.subscribed, { ...at, recovered: !!since }, correlation);
    if (since) return;
    if (kind === 'crdt') socket.frame(OP.crdtState, { key, state: { type: 'g-set' }, ...at });
    else if (kind === 'presence') socket.frame(OP.presence, { key, members: [], whole: true, ...at });
  };
  socket.accept('datasole.v2');
  socket.frame(OP.hello, { ...HELLO, time: 1_700_000_000_000 });
}

async function connect(server: typeof serve = serve): Promise<FakeSocket> {
  FakeSocket.serve = server;
  await client.connect();
  await settled();
  return FakeSocket.all.at(-1)!;
}

/** Handlers that note what they are told. */
function noting(): ChannelHandlers & { told: unknown[][] } {
  const told: unknown[][] = [];
  return {
    told,
    subscribed: (recovered) => told.push(['subscribed', recovered]),
    entry: (data, whole) => told.push(['entry', data, whole]),
    refused: ({ code }) => told.push(['refused', code]),
  };
}

describe('a channel', () => {
  it('begins with what is whole, goes on with entries, and outlives the connection', async () => {
    const crdt = noting();
    const room = noting();
    client.openChannel('crdt', 'c', crdt);
    client.openChannel('presence', 'r', room);
    let socket = await connect();
    socket.frame(OP.crdtOp, { key: 'c', op: { n: 4 }, epoch: 1, seq: 4 });
    socket.frame(OP.crdtOp, { key: 'c', op: { n: 4 }, epoch: 1, seq: 4 });
    socket.frame(OP.presence, { key: 'r', members: [{ id: 'c2', value: 1 }], epoch: 1, seq: 4 });
    await settled();
    assert.deepEqual(crdt.told, [
      ['subscribed', false],
      ['entry', { type: 'g-set' }, true],
      ['entry', { n: 4 }, false],
    ]);
    assert.deepEqual(room.told, [
      ['subscribed', false],
      ['entry', [], true],
      ['entry', [{ id: 'c2', value: 1 }], false],
    ]);
    socket.drop(1006);
    while (client.getConnectionState() !== 'connected') await settled();
    await settled();
    socket = FakeSocket.all.at(-1)!;
    socket.frame(OP.crdtOp, { key: 'c', op: { n: 5 }, epoch: 1, seq: 5 });
    await settled();
    assert.deepEqual(crdt.told.slice(3), [
      ['subscribed', true],
      ['entry', { n: 5 }, false],
    ]);
  });

  it('shares its stream: another one begins anew for all, and the last one to close ends it', async () => {
    const socket = await connect();
    const [first, second] = [noting(), noting()];
    const one = client.openChannel('crdt', 'c', first);
    await settled();
    const two = client.openChannel('crdt', 'c', second);
    await settled();
    const whole = [
      ['subscribed', false],
      ['entry', { type: 'g-set' }, true],
    ];
    assert.deepEqual(second.told, whole);
    assert.deepEqual(first.told, [...whole, ...whole]);
    one.close();
    one.close();
    socket.frame(OP.crdtOp, { key: 'c', op: 1, epoch: 1, seq: 4 });
    await settled();
    assert.deepEqual([first.told.length, second.told.length], [4, 3]);
    const before = sent(socket, OP.unsubscribe).length;
    two.close();
    await settled();
    assert.equal(sent(socket, OP.unsubscribe).length, before + 1);
  });

  it('submits, and is told how it went', async () => {
    const crdt = client.openChannel('crdt', 'c', noting());
    await assert.rejects(crdt.submit({ n: 1 }), { code: -32103, retryable: true });
    const socket = await connect();
    const room = client.openChannel('presence', 'r', noting());
    const outcomes = [crdt.submit({ n: 1 }), crdt.submit({ n: 2 }), room.submit(null), room.submit(), crdt.submit()];
    const settlement = Promise.allSettled(outcomes);
    await settled();
    const frames = [...sent(socket, OP.crdtOp), ...sent(socket, OP.presence)];
    assert.deepEqual(
      frames.map(({ payload }) => payload),
      [{ key: 'c', op: { n: 1 } }, { key: 'c', op: { n: 2 } }, { key: 'r', value: null }, { key: 'r' }],
    );
    const [one, two, three] = frames.map(({ correlation }) => correlation);
    socket.frame(OP.ack, new Uint8Array([4]), one);
    socket.frame(OP.error, { message: 'full', code: -32004, retryAfter: 9 }, two);
    socket.frame(OP.ack, new Uint8Array([0]), three);
    await settled();
    socket.drop(1006);
    const [first, second, third, fourth, fifth] = (await settlement) as any[];
    assert.deepEqual([first.value, third.value], [undefined, undefined]);
    assert.deepEqual([second.reason.code, second.reason.retryAfter], [-32004, 9]);
    assert.deepEqual([fourth.reason.code, fourth.reason.retryable], [-32101, true]);
    assert.equal(fifth.reason.message, 'crdt takes other data');
  });

  it('carries the messages of a document', async () => {
    const handlers = noting();
    const channel = client.openChannel('doc', 'd', handlers);
    // Nobody is told that there is no connection.
    channel.notify(new Uint8Array([1]));
    const socket = await connect();
    socket.frame(OP.doc, new Uint8Array([0, 9]), 7);
    socket.frame(OP.doc, new Uint8Array([4, 8]), 7);
    const bytes = new Uint8Array([1, 2, 3]).subarray(1);
    const done = channel.submit(bytes);
    channel.notify(bytes);
    bytes[0] = 0;
    await settled();
    const frames = sent(socket, OP.doc);
    assert.deepEqual(
      frames.map(({ correlation, payload }) => [correlation > 0, [...payload]]),
      [
        [true, [7, 2, 3]],
        [false, [7, 2, 3]],
      ],
    );
    socket.frame(OP.ack, new Uint8Array([5]), frames[0]!.correlation);
    socket.frame(OP.doc, new Uint8Array([6, 7]), 7);
    await done;
    await settled();
    assert.deepEqual(handlers.told, [
      ['subscribed', false],
      ['entry', new Uint8Array([9]), false],
      ['entry', new Uint8Array([8]), false],
      ['entry', new Uint8Array([7]), false],
    ]);
  });

  it('is refused, and asked for again by another one or a new connect', async () => {
    const handlers = noting();
    client.openChannel('crdt', 'secret', handlers);
    const socket = await connect();
    assert.deepEqual(handlers.told, [['refused', -32002]]);
    client.openChannel('crdt', 'secret', handlers);
    await settled();
    assert.equal(sent(socket, OP.subscribe).length, 2);
    await client.disconnect();
    const next = await connect();
    assert.equal(sent(next, OP.subscribe).length, 1);
  });

  it('is refused, and asked for again with a new connection', async () => {
    let allowed = false;
    const socket = await connect((socket) => {
      serve(socket);
      const { onframe } = socket;
      socket.onframe = (frame) => {
        if (frame.opcode === OP.subscribe && frame.payload.key === 'c' && !allowed) {
          return socket.frame(OP.error, { message: 'no', code: -32603 }, frame.correlation);
        }
        onframe!(frame);
      };
    });
    const crdt = noting();
    client.openChannel('crdt', 'c', crdt);
    await settled();
    allowed = true;
    socket.drop(1006);
    while (client.getConnectionState() !== 'connected') await settled();
    await settled();
    assert.deepEqual(crdt.told, [
      ['refused', -32603],
      ['subscribed', false],
      ['entry', { type: 'g-set' }, true],
    ]);
  });

  it('on version 1 is sent states, and its operations are done when they are sent', async () => {
    const handlers = noting();
    const channel = client.openChannel('crdt', 'c', handlers);
    const room = client.openChannel('presence', 'r', noting());
    const socket = await connect((socket) => socket.accept('datasole.v1'));
    await channel.submit({ op: 'increment' });
    await assert.rejects(room.submit(1), { code: -32600 });
    assert.deepEqual(
      sent(socket, OP.crdtOp).map(({ correlation, payload }) => [correlation, payload]),
      [[0, { key: 'c', op: { op: 'increment' } }]],
    );
    socket.frame(OP.crdtState, { key: 'c', state: { value: 1 } });
    await settled();
    assert.deepEqual(handlers.told, [
      ['subscribed', false],
      ['entry', { value: 1 }, true],
    ]);
  });

  it('harms no other when a handler throws', async () => {
    const reported: unknown[] = [];
    const consoleError = console.error;
    console.error = (error: unknown) => reported.push(error);
    try {
      const broken = () => {
        throw new Error('broken');
      };
      client.openChannel('crdt', 'c', { subscribed: broken, entry: broken, refused: broken });
      const handlers = noting();
      client.openChannel('crdt', 'c', handlers);
      await connect();
      assert.equal(handlers.told.length, 2);
      assert.equal(reported.length, 2);
    } finally {
      console.error = consoleError;
    }
  });
});

it("the status tells the server's clock", async () => {
  await connect();
  let serverTime: number | undefined;
  client.onStatus((status) => (serverTime = status.serverTime));
  assert.equal(serverTime, 1_700_000_000_000);
});
