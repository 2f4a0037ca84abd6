// States for servers that render pages, against an HTTP server that is the test.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { DatasoleError } from '../src/client.js';
import { fetchState } from '../src/ssr.js';

describe('a state is fetched', () => {
  let server: Server;
  let url: string;
  let asked: IncomingMessage;
  let answer: [status: number, body: string];

  before(async () => {
    server = createServer((request, response) => {
      asked = request;
      response.writeHead(answer[0], { 'content-type': 'application/json' }).end(answer[1]);
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  after(() => server.close());

  const refusal = async (options?: object) => {
    const error = await fetchState(url, 'k', options).catch((error: unknown) => error);
    assert.ok(error instanceof DatasoleError, String(error));
    return error;
  };

  it('with its position, for a user', async () => {
    answer = [200, '{"value":{"n":1},"epoch":9007199254740991,"seq":2}'];
    const state = await fetchState(`${url}/app/`, 'a/ü?', { token: 't', headers: { cookie: 'c=1' }, path: '/rt' });
    assert.deepEqual(state, { value: { n: 1 }, epoch: Number.MAX_SAFE_INTEGER, seq: 2 });
    assert.equal(asked.url, '/app/rt/state/a%2F%C3%BC%3F');
    assert.deepEqual([asked.headers.authorization, asked.headers.cookie], ['Bearer t', 'c=1']);
    answer = [200, '{"value":null,"epoch":1,"seq":2}'];
    assert.deepEqual(await fetchState(url.replace('http', 'ws'), 'k'), { value: null, epoch: 1, seq: 2 });
    assert.equal(asked.headers.authorization, undefined);
  });

  it('and is undefined where there is none', async () => {
    answer = [404, '{"error":{"code":-32003,"message":"there is no state of this key"}}'];
    assert.equal(await fetchState(url, 'k'), undefined);
  });

  it('or refused, with the error', async () => {
    answer = [403, '{"error":{"code":-32002,"message":"not yours"}}'];
    const { code, message, retryable } = await refusal();
    assert.deepEqual([code, message, retryable], [-32002, 'state k: not yours', false]);
    answer = [503, '{"error":{"code":-32004,"message":"full","retryAfter":1000}}'];
    const limited = await refusal();
    assert.deepEqual([limited.code, limited.retryable, limited.retryAfter], [-32004, true, 1000]);
  });

  it('and whoever else answers, or nobody, is told', async () => {
    for (const other of [[404, 'not here'], [200, '<!doctype html>'], [200, '{}'], [200, '7'], [200, '"a"'], [200, 'null'], [500, 'true'], [502, '']] as const) {
      answer = [...other];
      assert.match((await refusal()).message, new RegExp(`HTTP ${other[0]} from http://127.*/__ds/state/k, and no state`));
    }
    const error = await fetchState('http://127.0.0.1:1', 'k').catch((error: unknown) => error as DatasoleError);
    assert.match((error as DatasoleError).message, /^state k: no answer from http:\/\/127\.0\.0\.1:1\/__ds\/state\/k: /);
    assert.deepEqual([(error as DatasoleError).code, (error as DatasoleError).retryable], [-32103, true]);
    answer = [200, '{"value":1,"epoch":1,"seq":1}'];
    assert.equal((await refusal({ signal: AbortSignal.abort() })).code, -32102);
  });

  it('from another node where one is away, or says that it is', async () => {
    const away = createServer((_, response) => {
      response.writeHead(503).end('{"error":{"code":-32006,"message":"the server is shutting down"}}');
    }).listen(0, '127.0.0.1');
    await once(away, 'listening');
    const leaving = `http://127.0.0.1:${(away.address() as AddressInfo).port}`;
    answer = [200, '{"value":1,"epoch":1,"seq":1}'];
    for (const urls of [['http://127.0.0.1:1', url], [url, leaving], [leaving, 'http://127.0.0.1:1', url]]) {
      // Whichever is asked first.
      for (let times = 0; times < 8; times++) assert.equal((await fetchState(urls, 'k'))?.value, 1);
    }
    const nobody = await fetchState(['http://127.0.0.1:1', 'http://127.0.0.1:1'], 'k').catch((error: unknown) => error as DatasoleError);
    assert.equal((nobody as DatasoleError).code, -32103);
    answer = [403, '{"error":{"code":-32002,"message":"not yours"}}'];
    const refused = await fetchState(['http://127.0.0.1:1', url], 'k').catch((error: unknown) => error as DatasoleError);
    assert.equal((refused as DatasoleError).code, -32002);
    await assert.rejects(fetchState([], 'k'), { name: 'TypeError', message: 'fetchState needs a url' });
    away.closeAllConnections();
    away.close();
  });

  it('is asked for again where that may help', async () => {
    for (const [status, body, retryable] of [
      [503, '{"error":{"code":-32006,"message":"the server is shutting down"}}', true],
      [429, '', true],
      [502, '<h1>bad gateway</h1>', true],
      [503, '', true],
      [504, '', true],
      [500, '', false],
      [401, '{"error":{"code":-32001,"message":"unauthorized"}}', false],
    ] as const) {
      answer = [status, body];
      assert.equal((await refusal()).retryable, retryable, `${status} ${body}`);
    }
  });

  it('ends with its signal, while the answer is read, too, and with the deadline', async (t) => {
    const unfinished = createServer((_, response) => void response.writeHead(200).write('{"value":')).listen(0, '127.0.0.1');
    await once(unfinished, 'listening');
    const target = `http://127.0.0.1:${(unfinished.address() as AddressInfo).port}`;
    const fetched = async (options?: object) => {
      const asked = once(unfinished, 'request');
      const outcome = fetchState(target, 'k', options).catch((error: unknown) => error as DatasoleError);
      await asked;
      return outcome as Promise<DatasoleError>;
    };
    const abort = new AbortController();
    const cancelled = fetched({ signal: abort.signal });
    await once(unfinished, 'request');
    abort.abort();
    assert.deepEqual([(await cancelled).code, (await cancelled).retryable], [-32102, false]);
    // Maybe before it has asked.
    const late = (await fetchState(target, 'k', { signal: AbortSignal.timeout(5) }).catch((error: unknown) => error)) as DatasoleError;
    assert.deepEqual([late.code, late.retryable], [-32100, true]);
    const given: number[] = [];
    t.mock.method(AbortSignal, 'timeout', (millis: number) => (given.push(millis), abort.signal));
    await fetchState(target, 'k').catch(() => {});
    assert.deepEqual(given, [10_000]);
    unfinished.closeAllConnections();
    unfinished.close();
  });
});
