// The facade against a worker that is the test: handlers, the status, tokens.
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { DatasoleClient, type DatasoleClientOptions, type Status } from '../src/client.js';
import type { FromWorker } from '../src/protocol.js';
import { DatasoleClient as SlimClient } from '../src/slim.js';
import { collector } from './collector.js';
import { clients, CONNECTED, connected, FakeWorker, makeClient, ready, reported, settled, until } from './fake-worker.js';

describe('handlers', () => {
  const event = (data: unknown): FromWorker => ({ t: 'event', event: 'e', data, timestamp: 3 });

  it('are given event, data and timestamp, and nothing else', async () => {
    const { client, worker } = await connected();
    const seen: unknown[] = [];
    client.on('e', (payload) => seen.push(payload));
    worker.say(event({ a: 1 }));
    assert.deepEqual(seen, [{ event: 'e', data: { a: 1 }, timestamp: 3 }]);
  });

  it('that throw harm no one else', async () => {
    const { client, worker } = await connected();
    const seen: unknown[] = [];
    const throwing = (what: string) => () => {
      throw new Error(what);
    };
    client.on('e', throwing('event'));
    client.on('e', ({ data }) => seen.push(data));
    client.subscribeState('k', throwing('state'));
    client.subscribeState('k', (value) => seen.push(value));
    client.onStatus(throwing('status'));
    client.onStatus(({ state }) => seen.push(state));
    worker.say(event(1), { t: 'snapshot', key: 'k', rev: 1, value: 2 }, { t: 'status', state: 'reconnecting', attempt: 1 });
    assert.deepEqual(seen, [undefined, 'connected', 1, 2, 'reconnecting']);
    assert.deepEqual(
      reported.map((error) => (error as Error).message),
      ['state', 'status', 'event', 'state', 'status'],
    );
  });

  it('may leave and join while they are called', async () => {
    const { client, worker } = await connected();
    const seen: string[] = [];
    const late = () => seen.push('late');
    const gone = () => seen.push('gone');
    client.on('e', () => {
      seen.push('first');
      client.off('e', gone);
      client.on('e', late);
    });
    client.on('e', gone);
    worker.say(event(1));
    assert.deepEqual(seen, ['first']);
    worker.say(event(2));
    assert.deepEqual(seen, ['first', 'first', 'late']);
  });

  it('are called once per event, however often the same one was added', async () => {
    const { client, worker } = await connected();
    let calls = 0;
    const handler = () => calls++;
    client.on('e', handler);
    client.on('e', handler);
    worker.say(event(1));
    assert.equal(calls, 1);
    client.off('e', handler);
    worker.say(event(2));
    assert.equal(calls, 1);
    await settled();
    assert.deepEqual([worker.of('subscribe').length, worker.of('unsubscribe').length], [1, 1]);
  });

  it('that are replaced again and again in one turn miss nothing', async () => {
    const { client, worker } = await connected();
    const [seen, missed]: [unknown[], unknown[]] = [[], []];
    client.onMissed((name) => missed.push(name));
    const handler = ({ data }: { data: unknown }) => seen.push(data);
    client.on('e', handler);
    for (let n = 0; n < 20; n++) {
      client.off('e', handler);
      client.on('e', handler);
      worker.say(event(n));
    }
    await settled();
    assert.deepEqual(seen, [...Array(20).keys()]);
    assert.deepEqual(missed, []);
    assert.ok(worker.of('unsubscribe').every(({ linger }) => linger === 5_000), 'the core goes on meanwhile');
  });

  it('of the status end when asked to, each for itself', async () => {
    const { client, worker } = await connected();
    const seen: Status[] = [];
    const handler = (status: Status) => seen.push(status);
    const [endFirst] = [client.onStatus(handler), client.onStatus(handler)];
    endFirst();
    const status = { state: 'reconnecting', attempt: 1, retryInMs: 80, reason: { kind: 'closed', message: '', code: 1006 } } as const;
    worker.say({ t: 'status', ...status });
    assert.equal(seen.length, 3);
    assert.deepEqual(seen[2], status);
  });
});

describe('losing the connection', () => {
  it('shows what goes on, drops events unless queued, and answers connect anew', async () => {
    const { client, worker } = await connected();
    const first = client.connect();
    worker.say({ t: 'status', state: 'reconnecting', attempt: 1, retryInMs: 10 });
    assert.equal(client.emit('e', 1), false);
    assert.equal(client.emit('e', 2, { queue: true }), true);
    const again = client.connect();
    assert.notEqual(again, first);
    await settled();
    assert.deepEqual(
      worker.received.slice(-2).map(({ t }) => t),
      ['emit', 'connect'],
    );
    worker.say(CONNECTED);
    await again;
    assert.equal(client.emit('e', 3), true);
  });

  it('for good rejects what is pending and ends the worker gently', async () => {
    const { client, worker } = await connected();
    const call = client.rpc('m');
    const reason = { kind: 'unauthorized', message: 'expired' } as const;
    worker.say({ t: 'status', state: 'disconnected', reason });
    await assert.rejects(call, { code: -32001, message: /expired/ });
    const seen: Status[] = [];
    client.onStatus((status) => seen.push(status));
    assert.deepEqual(seen, [{ state: 'disconnected', reason }]);
    assert.equal(worker.received.at(-1)!.t, 'close');
    assert.equal(worker.terminated, false, 'it may say goodbye first');
  });
});

describe('tokens', () => {
  it('are asked for on demand', async () => {
    let token: () => string | Promise<string> = () => 'one';
    const { worker } = await connected({ getToken: () => token() });
    assert.equal(worker.of('init')[0]!.options.askToken, true);
    worker.say({ t: 'token' });
    await settled();
    token = async () => 'two';
    worker.say({ t: 'token' });
    await settled();
    token = () => Promise.reject(new Error('logged out'));
    worker.say({ t: 'token' });
    await settled();
    assert.deepEqual(worker.of('token'), [
      { t: 'token', token: 'one' },
      { t: 'token', token: 'two' },
      { t: 'token', error: 'logged out' },
    ]);
  });
});

describe('a first attempt that fails', () => {
  const { fetch } = globalThis;
  const LOST: FromWorker = { t: 'status', state: 'reconnecting', attempt: 1, retryInMs: 50, reason: { kind: 'closed', code: 1006, message: '' } };
  const [found, hint] = ['http://localhost:1/__ds is not a datasole server', 'is the path proxied to it?'];
  let asked = 0;
  let answer = () => Promise.resolve(new Response('<!doctype html>'));

  beforeEach(() => {
    asked = 0;
    answer = () => Promise.resolve(new Response('<!doctype html>'));
    globalThis.fetch = () => (asked++, answer());
  });
  afterEach(() => {
    globalThis.fetch = fetch;
  });

  async function failing() {
    const client = makeClient();
    const opened = client.connect();
    const worker = await ready();
    return { client, opened, worker };
  }

  it('is told on the console where nobody listens, once, with what to do', async () => {
    const { worker } = await failing();
    worker.say(LOST);
    await until(() => reported.length > 0);
    worker.say({ ...LOST, attempt: 2 }, { ...LOST, attempt: 3 });
    await settled();
    assert.deepEqual(reported, [`datasole: no connection to http://localhost:1: closed, 1006, ${found}, ${hint}`]);
    assert.equal(asked, 1);
  });

  it('is told to those who listen, at later attempts too', async () => {
    const { client, worker } = await failing();
    const seen: Status[] = [];
    client.onStatus((status) => seen.push(status));
    worker.say(LOST);
    await until(() => seen.length === 3);
    worker.say({ ...LOST, attempt: 2 }, { ...LOST, attempt: 3, reason: { kind: 'offline', message: '' } });
    const reason = { kind: 'closed', code: 1006, message: found, httpStatus: 200, hint };
    assert.deepEqual(seen.slice(1).map((status) => [status.attempt, status.reason]), [
      [1, { kind: 'closed', code: 1006, message: '' }],
      [1, reason],
      [2, reason],
      [3, { kind: 'offline', message: '' }],
    ]);
    assert.deepEqual([reported, asked], [[], 1]);
  });

  it('is part of the error once no more attempts are made', async () => {
    const { opened, worker } = await failing();
    worker.say(LOST);
    await until(() => reported.length > 0);
    worker.say({ t: 'status', state: 'disconnected', reason: (LOST as Status).reason });
    await assert.rejects(opened, { code: -32103, message: `no connection: closed, 1006, ${found}, ${hint}` });
  });

  for (const end of ['connected', 'disconnected'] as const) {
    it(`is not told any more once the client is ${end}`, async () => {
      let arrive!: (response: Response) => void;
      answer = () => new Promise((resolve) => (arrive = resolve));
      const { client, opened, worker } = await failing();
      worker.say(LOST);
      await until(() => asked > 0);
      if (end === 'connected') worker.say(CONNECTED);
      else await Promise.all([assert.rejects(opened), client.disconnect()]);
      arrive(new Response('<!doctype html>'));
      await settled();
      assert.deepEqual([reported, client.getConnectionState()], [[], end]);
    });
  }

  it('is told as it is where nothing can be found out', async () => {
    answer = () => Promise.reject(new TypeError('Failed to fetch'));
    const { worker } = await failing();
    worker.say(LOST);
    await until(() => reported.length > 0);
    assert.match(reported[0] as string, /^datasole: no connection to http:\/\/localhost:1: closed, 1006, http:\/\/localhost:1\/__ds cannot be reached, /);
  });

  it('is not asked about after a connection', async () => {
    const { worker } = await failing();
    worker.say(CONNECTED, LOST);
    await settled();
    assert.deepEqual([reported, asked], [[], 0]);
  });
});

describe('reuse', () => {
  it('is the same client for the same options, with the latest functions', async () => {
    let worker!: FakeWorker;
    const make = (token: string, more: Partial<DatasoleClientOptions> = {}) =>
      DatasoleClient.reuse({
        url: 'http://localhost:1',
        wasmUrl: '/none.wasm',
        worker: () => (worker = new FakeWorker()) as unknown as Worker,
        getToken: () => token,
        ...more,
      });
    const client = make('one');
    assert.ok(client instanceof DatasoleClient);
    assert.equal(make('two'), client);
    for (const more of [{ path: '/other' }, { auth: { token: 't' } }, { connectTimeout: 5 }]) {
      assert.notEqual(make('three', more), client);
      assert.equal(make('three', more), make('four', more));
    }
    void client.connect();
    const host = await ready(0);
    assert.equal(host, worker);
    host.say(CONNECTED, { t: 'token' });
    await settled();
    assert.deepEqual(host.of('token').map(({ token }) => token), ['two']);
    await client.disconnect();
    assert.notEqual(make('two'), client, 'one that was disconnected is another one’s no more');
  });

  it('is of its own class', () => {
    const options = { url: 'http://localhost:2' };
    const slim = SlimClient.reuse(options);
    const full = DatasoleClient.reuse(options);
    assert.equal(slim instanceof DatasoleClient, false);
    assert.ok(full.crdt);
    assert.equal(DatasoleClient.reuse(options), full);
  });
});

describe('a client on a server', () => {
  it('is made without a url, and says what it needs to connect', async () => {
    const client = new DatasoleClient();
    clients.push(client);
    client.on('chat', () => {});
    client.subscribeState('k', () => {});
    client.crdt.counter('votes').increment();
    client.presence('lobby').join('ann');
    assert.equal(client.getState('k'), undefined);
    assert.equal(client.getConnectionState(), 'disconnected');
    await assert.rejects(client.connect(), { code: -32106, message: /needs a url/ });
  });
});

describe('objects with private parts', () => {
  it('are none that Vue wraps', () => {
    const client = makeClient();
    const objects = [client, client.presence('r'), client.registerCrdt('a'), client.crdt.map('m')];
    for (const one of objects) assert.equal((one as any).__v_skip, true);
  });
});

describe('rooms', () => {
  it('are the same object while somebody has it or it is open, and nothing of them stays', async () => {
    const client = makeClient();
    const collect = collector();
    const kept = client.presence('kept');
    client.presence('open').subscribe(() => {});
    await collect();
    assert.equal(client.presence('kept'), kept);
    assert.equal(client.presence('open').members, client.presence('open').members);
    const visit = (round: number) => {
      for (let at = 0; at < 30_000; at++) {
        const room = client.presence(`room ${round} ${at}`);
        room.join(at);
        room.leave();
      }
    };
    visit(0);
    const before = await collect();
    visit(1);
    const grown = (await collect()) - before;
    assert.ok(grown < 30_000 * 40, `${grown / 30_000} bytes stay of each`);
  });
});
