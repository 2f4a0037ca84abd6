// Hosts of the core, which are the test: loading, failing, replacing.
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it, mock } from 'node:test';
import type { Status } from '../src/client.js';
import { PROTOCOL_VERSION } from '../src/protocol.js';
import { CONNECTED, connected, FakeWorker, makeClient, ready, reported, settled, until } from './fake-worker.js';

describe('starting', () => {
  it('nothing happens before connect', async () => {
    const client = makeClient();
    client.on('chat', () => {});
    client.subscribeState('k', () => {});
    assert.equal(client.getState('other'), undefined);
    assert.equal(client.getConnectionState(), 'disconnected');
    assert.throws(() => client.emit('chat', 1), { name: 'DatasoleError', code: -32103, message: 'not connected' });
    await assert.rejects(client.rpc('m'), { name: 'DatasoleError', code: -32103, retryable: true });
    await client.disconnect();
    await settled();
    assert.equal(FakeWorker.all.length, 0);
  });

  it('greets, configures, and follows what is followed, in this order', async () => {
    const client = makeClient({ path: 'ds/', auth: { token: 't', via: 'frame' }, maxReconnectAttempts: 3 });
    client.on('chat', () => {});
    client.subscribeState('k', () => {});
    const opened = client.connect();
    const worker = await ready();
    const { v, options } = worker.of('init')[0]!;
    const expected = {
      url: 'ws://localhost:1/ds',
      token: 't',
      tokenVia: 'frame',
      askToken: false,
      reconnect: undefined,
      reconnectInterval: undefined,
      maxReconnectAttempts: 3,
      connectTimeout: 10_000,
      contract: undefined,
      record: undefined,
    };
    assert.deepEqual([v, options], [PROTOCOL_VERSION, expected]);
    assert.deepEqual(
      worker.received.map(({ t }) => t),
      ['init', 'subscribe', 'subscribe', 'connect'],
    );
    assert.deepEqual(worker.posts, [1, 3]);
    await Promise.all([assert.rejects(opened, { code: -32104 }), client.disconnect()]);
  });

  for (const [url, path, endpoint] of [
    ['http://a.example', undefined, 'ws://a.example/__ds'],
    ['https://a.example:8443/', '/__ds/', 'wss://a.example:8443/__ds'],
    ['ws://a.example/base/', 'x', 'ws://a.example/base/x'],
    ['wss://a.example/base?query#hash', undefined, 'wss://a.example/base/__ds'],
  ] as const) {
    it(`${url} with path ${path} is ${endpoint}`, async () => {
      const client = makeClient({ url, path, maxReconnectAttempts: 0 });
      const opened = client.connect();
      const worker = await ready();
      assert.equal(worker.of('init')[0]!.options.url, endpoint);
      const served = `${endpoint.replace(/^ws/, 'http')}/datasole-worker.v${PROTOCOL_VERSION}.js`;
      worker.fail();
      await assert.rejects(opened, { message: `the worker script ${served} could not be loaded` });
    });
  }

  it('connecting twice is one promise', async () => {
    const client = makeClient();
    const [first, second] = [client.connect(), client.connect()];
    assert.equal(first, second);
    const worker = await ready();
    worker.say(CONNECTED);
    await first;
    assert.equal(client.connect(), first);
    assert.equal(worker.of('connect').length, 1);
  });

  it('a script of another version is refused, naming both', async () => {
    const client = makeClient();
    const opened = client.connect();
    await settled();
    FakeWorker.all[0]!.say({ t: 'here', v: 99 });
    await assert.rejects(opened, { code: -32106, message: new RegExp(`${PROTOCOL_VERSION}.*99`) });
    await settled();
    assert.ok(FakeWorker.all[0]!.terminated);
  });

  for (const options of [{ reconnect: false }, { maxReconnectAttempts: 0 }]) {
    it(`a script that cannot be loaded rejects with ${JSON.stringify(options)}, and the next attempt starts anew`, async () => {
      const client = makeClient(options);
      const opened = client.connect();
      await settled();
      FakeWorker.all[0]!.fail();
      await assert.rejects(opened, { name: 'DatasoleError', code: -32106, message: /worker script http:.* could not be loaded/ });
      assert.equal(client.getConnectionState(), 'disconnected');
      const again = client.connect();
      (await ready(1)).say(CONNECTED);
      await again;
    });
  }

  for (const [why, refuse] of [
    ['cannot be loaded', (worker: FakeWorker) => worker.fail()],
    ['is of another version', (worker: FakeWorker) => worker.say({ t: 'here', v: 99 })],
  ] as const) {
    it(`a script that ${why} is replaced by the application's own, and nothing that waits is lost`, async () => {
      const own: FakeWorker[] = [];
      const fallback = async () => ({ worker: () => (own.push(new FakeWorker()), own.at(-1) as never), wasmUrl: '/own.wasm' });
      const client = makeClient({ maxReconnectAttempts: 2, reconnectInterval: 0, fallback });
      const opened = client.connect();
      const call = client.rpc('m');
      await settled();
      refuse(FakeWorker.all[0]!);
      await until(() => own.length === 1);
      assert.ok(FakeWorker.all[0]!.terminated);
      // From then on each attempt is with its own.
      own[0]!.say({ t: 'here', v: PROTOCOL_VERSION });
      own[0]!.say({ t: 'fatal', message: 'the wasm at /own.wasm could not be loaded' });
      await until(() => own.length === 2);
      const worker = await ready(2);
      assert.equal(worker, own[1]);
      assert.match(worker.of('init')[0]!.wasmUrl, /own\.wasm$/);
      worker.say(CONNECTED, { t: 'done', id: worker.of('call')[0]!.id, value: 1 });
      assert.deepEqual([await opened, await call], [undefined, 1]);
    });
  }

  for (const bound of [{ reconnect: false }, { maxReconnectAttempts: 0 }, { maxReconnectAttempts: 1 }]) {
    it(`with ${JSON.stringify(bound)} its own worker is tried as well, and then connecting ends`, async () => {
      let [made, asked] = [0, 0];
      const worker = () => (made++, new FakeWorker() as never);
      const fallback = async () => (asked++, { worker, wasmUrl: '/own.wasm' });
      const opened = makeClient({ reconnectInterval: 0, ...bound, fallback }).connect();
      await settled();
      FakeWorker.all[0]!.say({ t: 'here', v: 99 });
      await until(() => made === 1);
      FakeWorker.all[1]!.fail('nor does its own');
      await assert.rejects(opened, { name: 'DatasoleError', code: -32106, message: 'nor does its own' });
      assert.deepEqual([FakeWorker.all.length, asked], [2, 1]);
    });
  }

  it('a bounded attempt ends, too, when its own worker cannot be loaded, or does not come in time', async () => {
    const never = new Promise<never>(() => {});
    for (const fallback of [() => Promise.reject(new Error('offline')), () => never]) {
      mock.timers.enable({ apis: ['setTimeout'] });
      const opened = makeClient({ reconnect: false, fallback }).connect();
      opened.catch(() => {});
      await settled();
      FakeWorker.all[0]!.fail('no script');
      await settled();
      mock.timers.tick(10_000);
      mock.timers.reset();
      await assert.rejects(opened, { code: -32106, message: 'no script' });
      assert.equal(FakeWorker.all.length, 1);
      FakeWorker.all = [];
    }
  });

  it('its own worker of another version is not asked for again and again', async () => {
    let asked = 0;
    const fallback = async () => (asked++, { worker: () => new FakeWorker() as never, wasmUrl: '/own.wasm' });
    const opened = makeClient({ reconnectInterval: 0, fallback }).connect();
    await settled();
    FakeWorker.all[0]!.say({ t: 'here', v: 99 });
    await until(() => FakeWorker.all.length === 2);
    FakeWorker.all[1]!.say({ t: 'here', v: 98 });
    await assert.rejects(opened, { code: -32106, message: /98/ });
    assert.equal(asked, 1);
  });

  it('a client that ends while its own worker is loaded starts none', async () => {
    let load = (_: object) => {};
    const client = makeClient({ reconnectInterval: 0, fallback: () => new Promise((resolve) => (load = resolve as never)) });
    const opened = client.connect();
    await settled();
    FakeWorker.all[0]!.fail();
    await Promise.all([assert.rejects(opened, { code: -32104 }), client.disconnect()]);
    load({ worker: () => new FakeWorker() as never });
    await settled();
    assert.equal(FakeWorker.all.length, 1);
  });

  const FALLBACKS: Record<string, () => Promise<object>> = {
    'cannot be loaded': () => Promise.reject(new Error('offline')),
    'throws at once': () => {
      throw new Error('no inlineWorker');
    },
  };
  for (const [what, fallback] of Object.entries(FALLBACKS)) {
    it(`where its own worker ${what} it tries the server's again`, async () => {
      const client = makeClient({ reconnectInterval: 0, fallback });
      const opened = client.connect();
      await settled();
      FakeWorker.all[0]!.fail();
      await until(() => FakeWorker.all.length === 2);
      assert.ok(FakeWorker.all[0]!.terminated);
      (await ready(1)).say(CONNECTED);
      await opened;
    });

    it(`where its own worker ${what} and it may not try again, it ends`, async () => {
      const client = makeClient({ reconnect: false, fallback });
      const opened = client.connect();
      await settled();
      FakeWorker.all[0]!.fail('a is away');
      await assert.rejects(opened, { code: -32106, message: 'a is away' });
      assert.equal(client.getConnectionState(), 'disconnected');
    });
  }

  it('a script that cannot be loaded is loaded again, and nothing that waits is lost', async () => {
    const client = makeClient({ reconnectInterval: 0, maxReconnectAttempts: 2 });
    const seen: Status[] = [];
    client.onStatus((status) => seen.push(status));
    client.on('chat', () => {});
    const opened = client.connect();
    const call = client.rpc('m');
    await settled();
    FakeWorker.all[0]!.fail();
    assert.ok(client.emit('early', 1));
    await until(() => FakeWorker.all.length === 2);
    assert.ok(FakeWorker.all[0]!.terminated);
    FakeWorker.all[1]!.say({ t: 'here', v: PROTOCOL_VERSION });
    FakeWorker.all[1]!.say({ t: 'fatal', message: 'the wasm at /none.wasm could not be loaded' });
    await until(() => FakeWorker.all.length === 3);
    const worker = await ready(2);
    const sent = ['init', 'subscribe', 'connect', 'call', 'emit'];
    assert.deepEqual([worker.received.map(({ t }) => t), worker.posts], [sent, [1, 4]]);
    worker.say(CONNECTED, { t: 'done', id: worker.of('call')[0]!.id, value: 1 });
    assert.deepEqual([await opened, await call], [undefined, 1]);
    const tries = seen.filter(({ state }) => state === 'reconnecting');
    assert.deepEqual([...new Set(tries.map(({ attempt }) => attempt))], [1, 2]);
    assert.deepEqual(tries.map(({ reason }) => reason!.kind), tries.map(() => 'host'));
    assert.match(tries.at(-1)!.reason!.message, /wasm/);
  });

  it('attempts to load end with maxReconnectAttempts, and with disconnect', async () => {
    const client = makeClient({ reconnectInterval: 0, maxReconnectAttempts: 1 });
    const opened = client.connect();
    await settled();
    FakeWorker.all[0]!.fail('one');
    await until(() => FakeWorker.all.length === 2);
    FakeWorker.all[1]!.fail('two');
    await assert.rejects(opened, { code: -32106, message: 'two' });
    const other = makeClient({ reconnectInterval: 20 });
    const never = other.connect();
    await settled();
    FakeWorker.all[2]!.fail();
    await Promise.all([assert.rejects(never, { code: -32104 }), other.disconnect()]);
    await new Promise((resolve) => setTimeout(resolve, 40));
    assert.equal(FakeWorker.all.length, 3);
  });

  it('a fatal error that is no failure to load is not tried again', async () => {
    const opened = makeClient().connect();
    await settled();
    FakeWorker.all[0]!.say({ t: 'here', v: PROTOCOL_VERSION });
    FakeWorker.all[0]!.say({ t: 'fatal', message: 'no WebSocket here' });
    await assert.rejects(opened, { code: -32106, message: 'no WebSocket here' });
  });

  it('calls that wait for the script end in time, or when they are cancelled', async () => {
    const client = makeClient();
    client.connect().catch(() => {});
    const abort = new AbortController();
    const cancelled = client.rpc('a', null, { signal: abort.signal });
    const late = client.rpc('b', null, { timeout: 10 });
    // Longer than a timer lasts.
    const long = client.rpc('c', null, { timeout: 2 ** 31 });
    const endless = client.rpc('d', null, { timeout: Infinity });
    abort.abort();
    await assert.rejects(cancelled, { code: -32102 });
    await assert.rejects(late, { code: -32100, retryable: true });
    const worker = await ready();
    const [a, b, c, d] = worker.of('call').map(({ id }) => id);
    assert.deepEqual(worker.of('cancel').map(({ id }) => id), [a, b]);
    worker.say(CONNECTED, { t: 'done', id: c!, value: 'c' }, { t: 'done', id: d!, value: 'd' });
    assert.deepEqual([await long, await endless], ['c', 'd']);
    await client.disconnect();
  });

  for (const [what, size, fits] of [
    ['messages', 0, 2_046],
    ['characters', 1_024 * 1_024, 4],
  ] as const) {
    it(`events that wait for the script are bounded in ${what}`, async () => {
      const client = makeClient();
      const opened = client.connect();
      // A string has quotes around it; `connect` waits, too.
      const data = 'x'.repeat(Math.max(size - 2, 0));
      for (let n = 0; n < fits; n++) assert.ok(client.emit('e', data));
      if (what === 'messages') assert.ok(client.emit('e', data));
      assert.throws(() => client.emit('e', data), { code: -32105, retryable: true });
      await assert.rejects(client.rpc('m'), { code: -32105 });
      const worker = await ready();
      worker.say(CONNECTED);
      await opened;
      assert.ok(client.emit('e', data));
      await settled();
      assert.equal(worker.of('emit').length, what === 'messages' ? fits + 2 : fits + 1);
    });
  }

  it('a worker that cannot be made rejects', async () => {
    const worker = () => {
      throw new Error('forbidden');
    };
    await assert.rejects(makeClient({ worker }).connect(), { code: -32106, message: 'forbidden' });
  });

  it('a script that says nothing rejects in time', async () => {
    const client = makeClient({ connectTimeout: 20 });
    await assert.rejects(client.connect(), { code: -32100, retryable: true, message: 'no connection to http://localhost:1 within 20 ms' });
    assert.equal(client.getConnectionState(), 'disconnected');
    await settled();
    assert.ok(FakeWorker.all[0]!.terminated);
  });

  it('disconnecting while loading rejects', async () => {
    const client = makeClient();
    const opened = client.connect();
    await Promise.all([assert.rejects(opened, { code: -32104 }), client.disconnect()]);
    await settled();
    assert.ok(FakeWorker.all[0]!.terminated);
  });
});

describe('the fetch of the wasm', () => {
  /** A `fetch` that never ends, or whose body does not; and the signals it was given. */
  const FETCHES: Record<string, (signals: AbortSignal[]) => typeof fetch> = {
    'no answer': (signals) => (_, init) => (signals.push(init!.signal!), new Promise(() => {})),
    'an endless body': (signals) => async (_, init) => (signals.push(init!.signal!), new Response(new ReadableStream())),
  };
  const wasmUrl = 'http://localhost:1/endless.wasm';
  /** Who fetches: the page for its worker, or the engine after the page has failed to. */
  const HOSTS = {
    page: { worker: () => new FakeWorker() as unknown as Worker },
    engine: { worker: undefined, useWorker: false },
  };
  for (const [what, make] of Object.entries(FETCHES)) {
    for (const [host, options] of Object.entries(HOSTS)) {
      /** A client that waits for the wasm, and the signal of the fetch. */
      const waiting = async (connectTimeout?: number) => {
        const signals: AbortSignal[] = [];
        const endless = make(signals);
        let asked = 0;
        globalThis.fetch = async (...args) => {
          // The probe asks, too.
          if (args[0] !== wasmUrl) throw new TypeError('fetch failed');
          if (host === 'engine' && !asked++) throw new TypeError('fetch failed');
          return endless(...args);
        };
        const client = makeClient({ ...options, wasmUrl, connectTimeout });
        const opened = client.connect();
        opened.catch(() => {});
        await until(() => !!signals.length || client.getConnectionState() === 'disconnected');
        return { client, opened, signals };
      };
      const { fetch } = globalThis;
      const { WebSocket } = globalThis as any;
      beforeEach(() => ((globalThis as any).WebSocket = class {}));
      afterEach(() => Object.assign(globalThis, { fetch, WebSocket }));

      it(`by the ${host} with ${what} ends with connectTimeout`, async () => {
        const { opened, signals } = await waiting(200);
        assert.deepEqual(signals.map(({ aborted }) => aborted), [false]);
        await assert.rejects(opened, { code: -32100 });
        await settled();
        assert.deepEqual(signals.map(({ aborted }) => aborted), [true]);
      });

      it(`by the ${host} with ${what} ends with disconnect`, async () => {
        const { client, opened, signals } = await waiting();
        assert.deepEqual(signals.map(({ aborted }) => aborted), [false]);
        await client.disconnect();
        await assert.rejects(opened, { code: -32104 });
        await settled();
        assert.deepEqual(signals.map(({ aborted }) => aborted), [true]);
      });
    }
  }
});

describe('several servers', () => {
  const worker = undefined;
  /** Workers by the URL of their script. */
  class Served extends FakeWorker {
    constructor(readonly url: string) {
      super();
    }
  }
  const urls = () => FakeWorker.all.map((worker) => (worker as Served).url.replace(/\/__ds.*/, ''));
  const url = ['http://localhost:1', 'http://localhost:2'];
  const { Worker } = globalThis as any;
  beforeEach(() => ((globalThis as any).Worker = Served));
  afterEach(() => ((globalThis as any).Worker = Worker));

  it('are asked for the script in turn', async () => {
    const opened = makeClient({ url, worker, useWorker: true, reconnectInterval: 0 }).connect();
    await settled();
    FakeWorker.all[0]!.fail('a is away');
    await until(() => FakeWorker.all.length === 2);
    FakeWorker.all[1]!.fail('so is b');
    await until(() => FakeWorker.all.length === 3);
    const third = await ready(2);
    assert.deepEqual(urls(), [...url, url[0]]);
    assert.equal(third.of('init')[0]!.options.url, 'ws://localhost:1/__ds ws://localhost:2/__ds');
    third.say(CONNECTED);
    await opened;
  });

  for (const [options, loads] of [
    [{ reconnect: false }, 2],
    [{ maxReconnectAttempts: 0 }, 2],
    [{ maxReconnectAttempts: 1 }, 2],
    [{ maxReconnectAttempts: 2 }, 3],
  ] as const) {
    it(`are each asked for the script with ${JSON.stringify(options)}`, async () => {
      const client = makeClient({ url, worker, useWorker: true, reconnectInterval: 0, ...options });
      const opened = client.connect();
      for (let load = 0; load < loads; load++) {
        await until(() => FakeWorker.all.length === load + 1);
        await settled();
        FakeWorker.all[load]!.fail(`load ${load}`);
      }
      await assert.rejects(opened, { code: -32106, message: `load ${loads - 1}` });
      assert.deepEqual(urls(), [...url, url[0]].slice(0, loads));
      const again = client.connect();
      await settled();
      FakeWorker.all[loads]!.fail();
      await until(() => FakeWorker.all.length === loads + 2);
      (await ready(loads + 1)).say(CONNECTED);
      await again;
    });
  }

  it('have one worker, which is replaced when it fails', async () => {
    const { client, worker: first } = await connected({ url, worker, useWorker: true, reconnectInterval: 0 });
    client.subscribeState('k', () => {});
    const call = client.rpc('m');
    first.fail('panicked');
    await assert.rejects(call, { code: -32106 });
    assert.deepEqual([client.getConnectionState(), reported.length], ['reconnecting', 1]);
    const next = await ready(1);
    assert.deepEqual(next.received.map(({ t }) => t), ['init', 'subscribe', 'connect']);
  });

  it('of which one has another version are asked on, each once', async () => {
    const opened = makeClient({ url, worker, useWorker: true, reconnectInterval: 0 }).connect();
    await settled();
    FakeWorker.all[0]!.say({ t: 'here', v: 99 });
    await until(() => FakeWorker.all.length === 2);
    FakeWorker.all[1]!.say({ t: 'here', v: 98 });
    await assert.rejects(opened, { code: -32106, message: /98/ });
    assert.deepEqual(urls(), url);
  });
});

describe('a worker that fails', () => {
  const FATALS: Record<string, (worker: FakeWorker) => void> = {
    'a panic': (worker) => worker.say({ t: 'fatal', message: 'panicked' }),
    'an error event': (worker) => worker.fail('panicked'),
    'an unreadable message': (worker) => worker.onmessageerror!(),
  };
  for (const [what, fail] of Object.entries(FATALS)) {
    it(`by ${what}: calls reject, a new one takes over`, async () => {
      const { client, worker } = await connected();
      const seen: unknown[] = [];
      client.subscribeState('k', (value) => seen.push(value));
      client.on('chat', () => {});
      const votes = client.crdt.counter('votes');
      for (const by of [1, 10, 100]) votes.increment(by);
      client.presence('lobby').join('ann');
      await settled();
      const [first] = worker.of('edit');
      worker.say({ t: 'snapshot', key: 'k', rev: 5, value: 'before' });
      const about = { kind: 'crdt', key: 'votes' };
      worker.say({ t: 'settled', ...about, id: first!.id, returns: true }, { t: 'entry', ...about, rev: 1, data: JSON.parse(first!.json!) });
      assert.equal(client.crdt.pending, 2);
      const call = client.rpc('m');
      fail(worker);
      await assert.rejects(call, { name: 'DatasoleError', code: -32106 });
      assert.equal(client.getConnectionState(), 'reconnecting');
      assert.equal(client.getState('k'), 'before');
      let back = false;
      void client.connect().then(() => (back = true));
      const next = await ready(1);
      assert.ok(worker.terminated);
      assert.deepEqual(
        next.received.map(({ t }) => t),
        ['init', 'subscribe', 'subscribe', 'open', 'edit', 'edit', 'open', 'show', 'connect', 'connect'],
      );
      assert.deepEqual(next.of('edit'), worker.of('edit').slice(1));
      assert.deepEqual([votes.value(), client.crdt.pending], [111, 2]);
      next.say({ t: 'status', state: 'connecting' });
      await settled();
      assert.deepEqual([client.getConnectionState(), back], ['reconnecting', false]);
      next.say(CONNECTED, { t: 'snapshot', key: 'k', rev: 1, value: 'after' });
      assert.deepEqual(seen, [undefined, 'before', 'after']);
      await settled();
      assert.deepEqual([client.getConnectionState(), back], ['connected', true]);
      assert.equal(reported.length, 1);
    });
  }

  it('again is not replaced again', async () => {
    const { client, worker } = await connected();
    worker.fail('first');
    const next = await ready(1);
    next.say(CONNECTED);
    const call = client.rpc('m');
    next.fail('second');
    await assert.rejects(call, { code: -32106, message: 'second' });
    await settled();
    assert.equal(client.getConnectionState(), 'disconnected');
    assert.equal(FakeWorker.all.length, 2);
  });

  it('late messages of a replaced worker mean nothing', async () => {
    const { client, worker } = await connected();
    const { onmessage } = worker;
    worker.fail('gone');
    await settled();
    onmessage!({ data: JSON.stringify([CONNECTED]) });
    assert.equal(client.getConnectionState(), 'reconnecting');
  });
});

describe('the page', () => {
  it('tells the core what it goes through, while there is one', async () => {
    const page = new EventTarget();
    const document = Object.assign(new EventTarget(), { hidden: false });
    const scope = globalThis as any;
    scope.addEventListener = page.addEventListener.bind(page);
    scope.document = document;
    try {
      const { client, worker } = await connected();
      const fire = (target: EventTarget, name: string) => target.dispatchEvent(new Event(name));
      fire(page, 'offline');
      fire(page, 'online');
      document.hidden = true;
      fire(document, 'visibilitychange');
      document.hidden = false;
      fire(document, 'visibilitychange');
      fire(page, 'pageshow');
      fire(document, 'resume');
      await settled();
      assert.deepEqual(
        worker.of('hint').map(({ kind }) => kind),
        ['offline', 'online', 'hidden', 'visible', 'visible', 'visible'],
      );
      await client.disconnect();
      fire(page, 'online');
      await settled();
      assert.equal(worker.of('hint').length, 6);
    } finally {
      delete scope.addEventListener;
      delete scope.document;
    }
  });
});
