// The core host by itself: its handshake, and that nothing escapes it.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { createEngine } from '../src/engine.js';
import { PROTOCOL_VERSION, type FromWorker, type ToWorker } from '../src/protocol.js';
import { FakeSocket } from './fake-socket.js';

const bytes = readFileSync(new URL('../datasole_wasm_bg.wasm', import.meta.url));

/** An engine, and what it says; `until` waits for a message of a kind. */
function makeEngine(module?: WebAssembly.Module) {
  const said: FromWorker[] = [];
  let told = () => {};
  const engine = createEngine(
    (batch) => {
      said.push(...JSON.parse(String(batch)));
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
