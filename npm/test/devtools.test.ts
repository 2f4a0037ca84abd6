// The things that the panel of `datasole/devtools` keeps of a client, without a page; the panel itself is tested in browsers.
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { CLIENTS_CHANGED } from '../src/development.js';
import { saveSession } from '../src/devtools/tools.js';
import { watchOf, type Watch } from '../src/devtools/watch.js';
import { connected, makeClient, ready, settled } from './fake-worker.js';

const nothing = () => {};
const names = (watch: Watch) => [...watch.streams.keys()];

describe('a watch', () => {
  it('knows what was followed and opened before it began', async () => {
    const { client, worker } = await connected();
    client.subscribeState('board', nothing);
    client.getState('looked at');
    client.presence('room with a name').join(1);
    worker.say({ t: 'snapshot', key: 'board', rev: 7, value: 1 });
    const watch = watchOf(client);
    assert.deepEqual(names(watch), ['state board', 'state looked at', 'presence room with a name']);
    assert.equal(watch.streams.get('state board')!.seq, 7);
    assert.equal(watch.value(watch.streams.get('state board')!), 1);
  });

  it('has no call that waits no more: answered, cancelled, or ended with its worker', async () => {
    const { client, worker } = await connected();
    const watch = watchOf(client);
    const end = new AbortController();
    const calls = ['a', 'b', 'c'].map((method) => client.rpc(method, undefined, { signal: method === 'b' ? end.signal : undefined }));
    const ended = Promise.allSettled(calls);
    assert.deepEqual([...watch.calls.values()].map(({ method }) => method), ['a', 'b', 'c']);
    await settled();
    worker.say({ t: 'done', id: worker.of('call')[0]!.id, value: 1 });
    end.abort();
    assert.deepEqual([...watch.calls.values()].map(({ method }) => method), ['c']);
    worker.say({ t: 'fatal', message: 'panicked' });
    await ended;
    assert.equal(watch.calls.size, 0);
    await ready(1);
  });

  it('keeps 200 streams, and more only where they are followed', async () => {
    const { client, worker } = await connected();
    const watch = watchOf(client);
    const left = (n: number) => worker.say({ t: 'entry', kind: 'crdt', key: `${n}`, rev: 1 }, { t: 'left', kind: 'crdt', key: `${n}` });
    for (let n = 0; n < 200; n++) left(n);
    assert.deepEqual([watch.streams.size, names(watch)[0]], [200, 'crdt 0'], 'at its bound');
    left(200);
    assert.deepEqual([watch.streams.size, names(watch)[0]], [200, 'crdt 1'], 'the oldest is gone');
    for (let n = 0; n < 250; n++) client.subscribeState(`${n}`, nothing);
    assert.equal(names(watch).filter((name) => name.startsWith('state ')).length, 250);
    assert.equal(watch.streams.size, 250);
    worker.say({ t: 'refused', what: 'state', name: '0', error: { code: -32002, message: 'no', retryable: false } });
    client.subscribeState('250', nothing);
    assert.equal(watch.streams.has('state 0'), false, 'one that was refused is not followed');
  });

  it('writes how many bytes were sent, which are gone a moment later', async () => {
    const { client, worker } = await connected();
    const watch = watchOf(client);
    client.emit('e', Uint8Array.of(1, 2, 3));
    await settled();
    assert.equal(worker.of('emit')[0]!.bytes!.length, 3);
    assert.deepEqual(watch.log.at(-1)!.content, { bytes: 3 });
  });

  it('ends with the last of those that look, and the client is as it was', async () => {
    const { client } = await connected();
    const watchers = client.store.watchers.size;
    const heard: unknown[] = [];
    client.traffic = (what) => heard.push(what);
    const watch = watchOf(client);
    let changes = 0;
    const [one, other] = [watch.join(() => changes++), watch.join(nothing)];
    client.emit('a');
    assert.deepEqual([changes, watch.count.sent, heard.length], [1, 1, 1]);
    one();
    one();
    client.emit('b');
    assert.deepEqual([changes, watch.count.sent, heard.length], [1, 2, 2]);
    assert.equal(watchOf(client), watch);
    other();
    client.emit('c');
    assert.deepEqual([watch.count.sent, heard.length, client.store.watchers.size], [2, 3, watchers]);
    assert.notEqual(watchOf(client), watch);
  });
});

describe('a session', () => {
  it('is not waited for when the client ends, or its worker, before it has come', async () => {
    const { client, worker } = await connected();
    const replaced = assert.rejects(saveSession(client), /replaced/);
    worker.say({ t: 'fatal', message: 'panicked' });
    await replaced;
    const second = await ready(1);
    const ended = assert.rejects(saveSession(client), /disconnected/);
    await settled();
    assert.equal(second.of('save').length, 1);
    await client.disconnect();
    await ended;
  });
});

describe('the clients of a page', () => {
  const scope = globalThis as { dispatchEvent?: (event: Event) => boolean; __DATASOLE__?: unknown[] | undefined };
  const { NODE_ENV } = process.env;
  beforeEach(() => void (process.env.NODE_ENV = 'development'));
  afterEach(() => {
    delete scope.dispatchEvent;
    delete scope.__DATASOLE__;
    if (NODE_ENV === undefined) delete process.env.NODE_ENV;
    else process.env.NODE_ENV = NODE_ENV;
  });

  it('are told of before they do anything, and go when they have ended', async () => {
    const told: unknown[][] = [];
    const [a, b] = [makeClient(), makeClient()];
    scope.dispatchEvent = ({ type }) => !!told.push([type, a.getConnectionState(), ...scope.__DATASOLE__!]);
    a.connect().catch(nothing);
    b.connect().catch(nothing);
    assert.deepEqual(told.splice(0), [[CLIENTS_CHANGED, 'disconnected', a], [CLIENTS_CHANGED, 'connecting', a, b]]);
    await a.disconnect();
    assert.deepEqual(told.splice(0), [[CLIENTS_CHANGED, 'disconnected', b]]);
    await a.disconnect();
    assert.deepEqual(told, []);
    a.connect().catch(nothing);
    assert.deepEqual(scope.__DATASOLE__, [b, a]);
    assert.equal(a.store.watchers.size, 0);
  });
});
