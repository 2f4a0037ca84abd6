// The core host by itself: its handshake, and that nothing escapes it.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it, type TestContext } from 'node:test';
import { createEngine } from '../src/engine.js';
import { PROTOCOL_VERSION, unpack, type FromWorker, type ToWorker } from '../src/protocol.js';
import { FakeSocket, HELLO, OP } from './fake-socket.js';

const bytes = readFileSync(new URL('../datasole_wasm_bg.wasm', import.meta.url));

/** An engine, and what it says, each batch told to `heard`; `until` waits for a message of a kind. */
function makeEngine(module?: WebAssembly.Module, heard?: (messages: FromWorker[]) => void) {
  const said: FromWorker[] = [];
  let told = () => {};
  const engine = createEngine(
    (batch) => {
      const messages = unpack(String(batch));
      said.push(...messages);
      heard?.(messages);
      told();
    },
    FakeSocket as never,
    module,
  );
  const until = async <T extends FromWorker['t']>(t: T) => {
    for (;;) {
      const found = said.find((message): message is Extract<FromWorker, { t: T }> => message.t === t);
      if (found) return found;
      await new Promise<void>((resolve) => (told = resolve));
    }
  };
  return { engine, said, until };
}

function init(over: object = {}): ToWorker {
  const wasm = new Uint8Array(bytes).buffer;
  return { t: 'init', v: PROTOCOL_VERSION, options: { url: 'ws://localhost:1/__ds' }, wasmUrl: '', wasm, ...over };
}

describe('the engine', () => {
  it('says here, then ready', async () => {
    const { engine, said, until } = makeEngine();
    assert.deepEqual(said, [{ t: 'here', v: PROTOCOL_VERSION }]);
    engine.post([init()]);
    assert.deepEqual(await until('ready'), { t: 'ready', build: 'test' });
  });

  it('takes a module that is compiled already, and reads no bytes', async () => {
    const { engine, until } = makeEngine(new WebAssembly.Module(bytes));
    engine.post([init({ wasm: new ArrayBuffer(4) })]);
    assert.deepEqual(await until('ready'), { t: 'ready', build: 'test' });
  });

  it('refuses a page of another version, naming both', async () => {
    const { engine, until } = makeEngine();
    engine.post([init({ v: 99 })]);
    assert.match((await until('fatal')).message, new RegExp(`99.*${PROTOCOL_VERSION}`));
  });

  it('refuses what is no wasm', async () => {
    const { engine, until } = makeEngine();
    engine.post([init({ wasm: new ArrayBuffer(4), wasmUrl: '/x.wasm' })]);
    assert.match((await until('fatal')).message, /the wasm at \/x\.wasm could not be compiled/);
  });

  it('tells what fails on the way into wasm once, closes its sockets, and stays dead', async () => {
    FakeSocket.all = [];
    FakeSocket.serve = (socket) => socket.accept('datasole.v1');
    const { engine, said, until } = makeEngine();
    engine.post([init()]);
    await until('ready');
    engine.post([{ t: 'connect' }]);
    while ((await until('status')) && !said.some((one) => one.t === 'status' && one.state === 'connected')) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    engine.post([{ t: 'hint', kind: Symbol() as never }]);
    assert.notEqual((await until('fatal')).message, '');
    const [socket] = FakeSocket.all;
    assert.ok(socket!.closedWith);
    const count = said.length;
    engine.post([{ t: 'connect' }, { t: 'call', id: 1, method: 'm', queue: true }]);
    socket!.drop();
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(said.length, count);
  });
});

/** An engine that follows the topic `e`, whose batches of events are told by `take`, and its clock. */
async function flooded(test: TestContext) {
  FakeSocket.all = [];
  FakeSocket.serve = (socket) => {
    socket.onframe = ({ opcode, correlation, payload }) => {
      if (opcode === OP.subscribe) socket.frame(OP.subscribed, { epoch: 1, seq: 0, recovered: false }, correlation);
      if (opcode === OP.request) socket.frame(OP.response, { result: payload.params }, correlation);
    };
    socket.accept('datasole.v2');
    socket.frame(OP.hello, HELLO);
  };
  const clock = { now: 1_000 };
  test.mock.method(performance, 'now', () => clock.now);
  test.mock.timers.enable({ apis: ['setTimeout'] });
  let batches: number[][] = [];
  const { engine, until } = makeEngine(new WebAssembly.Module(bytes), (messages) => {
    const data = messages.flatMap((message) => (message.t === 'event' ? [message.data as number] : message.t === 'done' ? [-1] : []));
    if (data.length) batches.push(data);
  });
  const turns = async () => {
    for (let turn = 0; turn < 10; turn++) await new Promise((resolve) => setImmediate(resolve));
  };
  engine.post([init()]);
  await until('ready');
  engine.post([{ t: 'connect' }, { t: 'subscribe', id: 1, kind: 'event', key: 'e' }]);
  await until('subscribed');
  const [socket] = FakeSocket.all;
  let seq = 0;
  const pass = async (millis: number) => {
    for (let left = millis; left > 0; left--) {
      clock.now += 1;
      test.mock.timers.tick(1);
    }
    await turns();
  };
  /** An event, so many milliseconds after what was before. */
  const event = async (after: number, data: unknown = seq + 1) => {
    await pass(after);
    socket!.frame(OP.event, { event: 'e', data, timestamp: 1, epoch: 1, seq: ++seq });
    await turns();
  };
  return { engine, event, pass, turns, take: () => batches.splice(0) };
}

describe('batches', () => {
  it('leave at once after a pause, and ever later under load, up to the time of a frame', async (test) => {
    const { event, pass, take } = await flooded(test);
    await event(100);
    assert.deepEqual(take(), [[1]], 'after a pause');
    // One each millisecond: how many come together, from the first that waits on.
    for (let n = 0; n < 60; n++) await event(1);
    assert.deepEqual(take().map((batch) => batch.length), [3, 8, 16, 16, 16], 'twice as long each time, and no longer');
    await event(100);
    assert.equal(take().length, 2, 'what was left, and the first after the pause');
    await event(3);
    assert.deepEqual(take(), []);
    await pass(1);
    assert.deepEqual(take(), [[63]], 'the pause is the short one again');
  });

  it('take along what is gathered when somebody waits, and do not wait longer for that', async (test) => {
    const { engine, event, pass, turns, take } = await flooded(test);
    for (let call = 2; call < 5; call++) {
      await pass(100);
      engine.post([{ t: 'call', id: call, method: 'm', queue: false }]);
      await turns();
      assert.deepEqual(take(), [[-1]]);
      await event(1);
      assert.deepEqual(take(), []);
      await pass(3);
      assert.equal(take().length, 1, 'calls with an event behind each are no load');
    }
    await event(1);
    engine.post([{ t: 'call', id: 9, method: 'm', queue: false }]);
    await turns();
    assert.deepEqual(take(), [[4, -1]]);
  });

  it('leave as soon as they are long, as text however long', async (test) => {
    const { event, take } = await flooded(test);
    await event(100);
    await event(1, 'x'.repeat(64 * 1024 - 200));
    assert.equal(take().length, 1, 'not long enough');
    await event(0, 'x'.repeat(200));
    assert.equal(take().length, 1);
    await event(0, 'ä'.repeat(500_000));
    assert.equal(take().length, 1, 'a long one alone');
  });
});
