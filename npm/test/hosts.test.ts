// Where the core runs: on pages, in sandboxed frames, outside of pages, in workers of other kinds.
import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import { resolve } from '../src/options.js';
import { openWorker } from '../src/port.js';
import { PROTOCOL_VERSION, WASM_FILE } from '../src/protocol.js';
import type { Status } from '../src/status.js';
import { FakeWorker, makeClient, ready, reported, settled } from './fake-worker.js';

const scope = globalThis as any;
const set = new Map<string, PropertyDescriptor | undefined>();

/** Gives the global scope something until the test ends. */
function give(globals: Record<string, unknown>): void {
  for (const [name, value] of Object.entries(globals)) {
    if (!set.has(name)) set.set(name, Object.getOwnPropertyDescriptor(scope, name));
    Object.defineProperty(scope, name, { value, configurable: true, writable: true });
  }
}

afterEach(() => {
  for (const [name, before] of set) {
    if (before) Object.defineProperty(scope, name, before);
    else delete scope[name];
  }
  set.clear();
});

const PAGE = new URL('https://app.example/shop/index.html');
const WORKER = `datasole-worker.v${PROTOCOL_VERSION}.js`;

describe('the core runs', () => {
  it('in a worker on pages, on this thread elsewhere, unless told', () => {
    const url = 'http://localhost:1';
    const mode = (options = {}) => resolve({ url, ...options }).useWorker;
    assert.equal(mode(), false, 'Node');
    // Bun and Deno have workers, and can make none of a script over HTTP.
    give({ Worker: FakeWorker });
    assert.equal(mode(), false, 'Bun, Deno');
    assert.equal(mode({ useWorker: true }), true);
    assert.equal(mode({ worker: () => new FakeWorker() }), true);
    give({ location: PAGE });
    assert.equal(mode(), false, 'a worker, which has a location');
    give({ document: {} });
    assert.equal(mode(), true, 'a page');
    assert.equal(mode({ useWorker: false }), false);
    give({ Worker: undefined });
    assert.equal(mode(), false, 'a page without workers');
  });

  it('from the server that the client connects to', () => {
    give({ location: PAGE });
    const { core, workerUrl, wasmUrl } = resolve({});
    const base = 'https://app.example/__ds';
    assert.deepEqual([core.url, workerUrl, wasmUrl], ['wss://app.example/__ds', `${base}/${WORKER}`, `${base}/${WASM_FILE}`]);
    const other = resolve({ url: 'http://api.example', workerUrl: '/own/w.js', wasmUrl: 'w.wasm' });
    assert.deepEqual(
      [other.core.url, other.workerUrl, other.wasmUrl],
      ['ws://api.example/__ds', 'https://app.example/own/w.js', 'https://app.example/shop/w.wasm'],
    );
  });

  it('for several servers, from the first that has them', () => {
    give({ location: PAGE });
    const options = { url: ['https://a.example', 'ws://b.example:4000/base/', '/'], path: 'r t' };
    assert.equal(resolve(options).core.url, 'wss://a.example/r%20t ws://b.example:4000/base/r%20t wss://app.example/r%20t');
    const bases = ['https://a.example/r%20t', 'http://b.example:4000/base/r%20t', 'https://app.example/r%20t'];
    for (const [attempt, base] of [...bases, ...bases].entries()) {
      const { workerUrl, wasmUrl } = resolve(options, attempt);
      assert.deepEqual([workerUrl, wasmUrl], [`${base}/${WORKER}`, `${base}/${WASM_FILE}`]);
    }
    assert.throws(() => resolve({ url: [] }), { name: 'TypeError', message: /needs a url/ });
    assert.throws(() => resolve({ url: ['https://a.example', 'ftp://b.example'] }), { name: 'TypeError', message: /ftp:\/\/b/ });
  });
});

describe('a worker', () => {
  const nothing = { batch() {}, failed() {} };

  /** Opens a worker of a script of the page's URL, in a document of an origin; what it is made of. */
  function made(origin: string): [url: string, type: string] {
    let found!: [string, string];
    class Recorder extends FakeWorker {
      constructor(url: string, { type }: { type: string }) {
        super();
        found = [url, type];
      }
    }
    give({ location: PAGE, self: { origin }, Worker: Recorder });
    openWorker(`${PAGE.origin}/__ds/${WORKER}`, undefined, nothing);
    return found;
  }

  it('is made of its script where that is of the same origin', () => {
    assert.deepEqual(made(PAGE.origin), [`${PAGE.origin}/__ds/${WORKER}`, 'classic']);
  });

  it('is made of a blob elsewhere, and in sandboxed frames, whose origin is not that of their URL', () => {
    for (const origin of ['https://other.example', 'null']) {
      const [url, type] = made(origin);
      assert.match(url, /^blob:/);
      assert.equal(type, 'classic');
    }
  });

  it('that cannot be made is replaced by this thread', async () => {
    class Forbidden {
      constructor() {
        throw new DOMException('not here', 'SecurityError');
      }
    }
    give({ Worker: Forbidden, WebSocket: undefined });
    const client = makeClient({ worker: undefined, useWorker: true });
    // The engine runs: nothing but a socket is missing.
    await assert.rejects(client.connect(), { code: -32106, message: /WebSocket/ });
  });

  it('of the application that cannot be made is an error', async () => {
    const worker = () => {
      throw new Error('no such file');
    };
    await assert.rejects(makeClient({ worker }).connect(), { code: -32106, message: 'no such file' });
  });

  it('is used as the application makes it', async () => {
    give({ location: PAGE, self: PAGE });
    const client = makeClient();
    const opened = client.connect();
    (await ready()).say({ t: 'status', state: 'connected', protocol: 2 });
    await opened;
    await settled();
    assert.equal(client.getConnectionState(), 'connected');
  });
});

describe('a URL that is none', () => {
  const NONE = 'http://[';
  const WHY = `not an http(s) or ws(s) URL: ${NONE}`;

  for (const options of [{ url: NONE }, { url: ['http://localhost:1', NONE] }, { workerUrl: NONE }, { wasmUrl: NONE }]) {
    it(`ends connecting and is named: ${JSON.stringify(options)}`, async () => {
      give({ location: PAGE });
      const client = makeClient({ reconnectInterval: 0, ...options });
      const seen: Status[] = [];
      client.onStatus((status) => seen.push(status));
      const call = client.rpc('m', null, { queue: true });
      const errors = await Promise.all([client.connect(), call].map((promise) => promise.catch((error) => error)));
      for (const { code, message } of errors) assert.deepEqual([code, message], [-32106, `TypeError: ${WHY}`]);
      assert.deepEqual(seen.map(({ state }) => state), ['disconnected', 'connecting', 'disconnected']);
      assert.deepEqual(seen.at(-1)!.reason, { kind: 'host', message: `TypeError: ${WHY}` });
      assert.deepEqual([FakeWorker.all, reported], [[], []]);
    });
  }

  it('ends no later connection', async () => {
    give({ location: PAGE });
    const client = makeClient({ url: NONE });
    const seen: string[] = [];
    client.onStatus(({ state, reason }) => seen.push(`${state} ${reason?.kind}`));
    const first = client.connect();
    client.disconnect();
    const second = client.connect();
    await Promise.all([first, second].map((opened) => assert.rejects(opened)));
    await settled();
    const ends = ['disconnected idle', 'connecting undefined', 'disconnected closedByUser', 'connecting undefined', 'disconnected host'];
    assert.deepEqual([seen, reported], [ends, []]);
  });

  it("ends connecting and is named, once, where it is the fallback's", async () => {
    give({ location: PAGE });
    let asked = 0;
    const fallback = async () => (asked++, { worker: () => new FakeWorker() as never, wasmUrl: NONE });
    const client = makeClient({ reconnectInterval: 0, fallback });
    client.onStatus(() => {});
    const opened = client.connect();
    await settled();
    FakeWorker.all[0]!.say({ t: 'here', v: 99 });
    await assert.rejects(opened, { code: -32106, message: `TypeError: ${WHY}` });
    assert.equal(client.getConnectionState(), 'disconnected');
    assert.deepEqual([asked, FakeWorker.all.length, reported], [1, 1, []]);
  });
});
