// What a client sends, and the answers, against a worker that is the test.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { runInNewContext } from 'node:vm';
import { ErrorCode } from '../src/client.js';
import { Code } from '../src/codes.js';
import { connected, settled } from './fake-worker.js';

describe('messages', () => {
  it('made together leave together', async () => {
    const { client, worker } = await connected();
    worker.posts.length = 0;
    for (let n = 0; n < 10; n++) client.emit('e', n);
    await settled();
    assert.deepEqual(worker.posts, [10]);
    assert.deepEqual(
      worker.of('emit').map(({ json }) => json),
      [...Array(10).keys()].map(String),
    );
  });

  it('come as text, and with bytes beside it', async () => {
    const { client, worker } = await connected();
    const seen: unknown[] = [];
    client.on('e', ({ data }) => seen.push(data));
    const text = JSON.stringify([{ t: 'event', event: 'e', data: 'ä', timestamp: 1 }]);
    worker.batch(text);
    const withBin = JSON.stringify([{ t: 'event', event: 'e', bin: 1, timestamp: 1 }]);
    worker.batch([withBin, new Uint8Array([1]), new Uint8Array([2])]);
    assert.deepEqual(seen, ['ä', new Uint8Array([2])]);
  });

  it('of a stream that come one after the other share its name', async () => {
    const { client, worker } = await connected();
    const seen: unknown[] = [];
    client.on('e', ({ event, data, timestamp }) => seen.push([event, data, timestamp]));
    client.subscribeState('k', (value) => seen.push(value));
    const add = (value: number) => [{ op: 'add', path: '/-', value }];
    worker.batch(
      JSON.stringify([
        { t: 'snapshot', key: 'k', rev: 1, value: [0] },
        { t: 'event', event: 'e', list: [null, 1, [2], 3] },
        { t: 'patch', key: 'k', list: [add(1), 2, add(2), 3] },
        { t: 'event', event: 'e', list: [4, 5] },
        { t: 'patch', key: 'k', list: [add(3), 4] },
      ]),
    );
    assert.deepEqual(seen, [undefined, [0], ['e', null, 1], ['e', [2], 3], [0, 1, 2], ['e', 4, 5], [0, 1, 2, 3]]);
    client.on('e', () => void client.disconnect());
    worker.batch(JSON.stringify([{ t: 'event', event: 'e', list: [6, 7, 8, 9] }]));
    assert.deepEqual(seen.slice(7), [['e', 6, 7]]);
  });

  it('settle every call once, in any order', async () => {
    const { client, worker } = await connected();
    const calls = [client.rpc('a'), client.rpc('b'), client.rpc('c')];
    await settled();
    const ids = worker.of('call').map(({ id }) => id);
    assert.equal(new Set(ids).size, 3);
    const error = { code: 5, message: 'no', retryable: false, data: [1], retryAfter: 7 };
    worker.say({ t: 'done', id: ids[2]!, value: 'c' }, { t: 'done', id: ids[0]! }, { t: 'done', id: ids[1]!, error });
    worker.say({ t: 'done', id: ids[0]!, value: 'late' }, { t: 'done', id: 4_000, value: 'unknown' });
    assert.equal(await calls[0], undefined);
    await assert.rejects(calls[1]!, { name: 'DatasoleError', ...error });
    assert.equal(await calls[2], 'c');
  });

  it('what cannot be JSON is refused at the call', async () => {
    const { client, worker } = await connected();
    const circular: any = {};
    circular.self = circular;
    await assert.rejects(client.rpc('m', circular), TypeError);
    assert.throws(() => client.emit('e', 1n), TypeError);
    await settled();
    assert.deepEqual([worker.of('call').length, worker.of('emit').length], [0, 0]);
  });
});

describe('bytes', () => {
  /** A class as some polyfills of `Buffer` are: its slice is a view. */
  class Viewing extends Uint8Array {
    override slice(start?: number, end?: number): any {
      return this.subarray(start, end);
    }
  }
  const wide = Uint8Array.of(8, 1, 2, 3, 8);

  const forms: [string, ArrayBuffer | ArrayBufferView][] = [
    ['a Buffer', Buffer.from([1, 2, 3])],
    ['a subclass whose slice is a view', Viewing.of(1, 2, 3)],
    ['a DataView with an offset', new DataView(Uint8Array.from(wide).buffer, 1, 3)],
    ['an array of wider elements', new Uint16Array(Uint8Array.from([1, 2, 3, 4]).buffer)],
    ['an ArrayBuffer', Uint8Array.of(1, 2, 3).buffer],
    ['a SharedArrayBuffer', shared([1, 2, 3])],
    ['an array of another realm', runInNewContext('Uint8Array.of(1, 2, 3)')],
    ['an ArrayBuffer of another realm', runInNewContext('Uint8Array.of(1, 2, 3).buffer')],
    ['no bytes at all', new Uint8Array()],
  ];

  function shared(bytes: number[]): ArrayBuffer {
    const buffer = new SharedArrayBuffer(bytes.length);
    new Uint8Array(buffer).set(bytes);
    return buffer as unknown as ArrayBuffer;
  }

  /** The bytes of a buffer or view, as a view of its own. */
  const over = (bytes: ArrayBuffer | ArrayBufferView) =>
    ArrayBuffer.isView(bytes)
      ? new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      : new Uint8Array(bytes);

  for (const [what, given] of forms) {
    it(`of ${what} are those at the time of the call, and the caller keeps them`, async () => {
      const { client, worker } = await connected();
      const expected = [...over(given)];
      const call = client.rpc('echo', given);
      client.emit('e', given);
      over(given).fill(9);
      await settled();
      for (const message of [worker.of('call')[0]!, worker.of('emit')[0]!]) {
        assert.equal(message.json, undefined);
        assert.deepEqual([...message.bytes!], expected);
      }
      assert.deepEqual([...over(given)], expected.map(() => 9), 'the buffer was not transferred');
      worker.say({ t: 'done', id: worker.of('call')[0]!.id, value: null });
      await call;
    });
  }

  it('of a buffer that is filled again and again are different ones', async () => {
    const { client, worker } = await connected();
    const buffer = Buffer.alloc(1);
    for (let at = 0; at < 100; at++) client.emit('e', buffer.fill(at));
    await settled();
    assert.deepEqual(worker.of('emit').map(({ bytes }) => bytes![0]), [...Array(100).keys()]);
  });

  it('of a Blob are refused, saying what to do', async () => {
    const { client, worker } = await connected();
    for (const blob of [new Blob(['x']), new File(['x'], 'name')]) {
      const expected = { name: 'DatasoleError', code: -32602, message: /Blob.*arrayBuffer\(\)/ };
      await assert.rejects(client.rpc('m', blob), expected);
      assert.throws(() => client.emit('e', blob), expected);
    }
    await settled();
    assert.deepEqual([worker.of('call'), worker.of('emit')], [[], []]);
  });
});

describe('aborting', () => {
  it('rejects at once and tells the worker', async () => {
    const { client, worker } = await connected();
    const abort = new AbortController();
    const call = client.rpc('slow', null, { signal: abort.signal });
    abort.abort('enough');
    await assert.rejects(call, { name: 'DatasoleError', code: -32102, cause: 'enough', retryable: false });
    await settled();
    const { id } = worker.of('call')[0]!;
    assert.deepEqual(worker.of('cancel'), [{ t: 'cancel', id }]);
    worker.say({ t: 'done', id, value: 'late' });
  });

  it('before the call sends nothing, after its end changes nothing', async () => {
    const { client, worker } = await connected();
    await assert.rejects(client.rpc('m', null, { signal: AbortSignal.abort() }), { code: -32102 });
    const abort = new AbortController();
    const call = client.rpc('m', null, { signal: abort.signal });
    await settled();
    assert.equal(worker.of('call').length, 1);
    worker.say({ t: 'done', id: worker.of('call')[0]!.id, value: 1 });
    assert.equal(await call, 1);
    abort.abort();
    await settled();
    assert.equal(worker.of('cancel').length, 0);
  });
});

it('the numbers that the package gives are those of the list', () => {
  const { InvalidRequest, InvalidParams, Unauthorized, Timeout, Cancelled, NotConnected, Closed, LocalLimit, Host } = ErrorCode;
  assert.deepEqual(
    [Code.InvalidRequest, Code.InvalidParams, Code.Unauthorized, Code.Timeout, Code.Cancelled, Code.NotConnected, Code.Closed, Code.LocalLimit, Code.Host],
    [InvalidRequest, InvalidParams, Unauthorized, Timeout, Cancelled, NotConnected, Closed, LocalLimit, Host],
  );
});
