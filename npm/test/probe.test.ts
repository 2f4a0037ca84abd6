// What is found out about a first attempt that failed, from answers over HTTP.
import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import { explain } from '../src/probe.js';
import type { StatusReason } from '../src/status.js';

const ENDPOINT = 'wss://app.example/__ds/';
const WORKER = 'https://app.example/__ds/datasole-worker.v3.js';
const CLOSED: StatusReason = { kind: 'closed', code: 1006, message: '' };
const HOST: StatusReason = { kind: 'host', message: 'the worker script could not be loaded' };
const { fetch } = globalThis;

afterEach(() => {
  globalThis.fetch = fetch;
});

/** Answers by URL, or by mode and URL; nothing is reached else. Returns what was asked. */
function answering(answers: Record<string, Response>): string[] {
  const asked: string[] = [];
  globalThis.fetch = async (url: any, { mode, cache }: any = {}) => {
    assert.equal(cache, 'no-store');
    asked.push(`${mode} ${url}`);
    const answer = answers[`${mode} ${url}`] ?? (mode === 'cors' ? answers[url] : undefined);
    if (!answer) throw new TypeError('Failed to fetch');
    return answer;
  };
  return asked;
}

const HEALTH = 'https://app.example/__ds/health';
const healthy = () => Response.json({ live: true, ready: true });
const html = (status = 200) => new Response('<!doctype html>', { status });

describe('a first attempt that failed', () => {
  const cases: [string, Record<string, Response>, StatusReason, Partial<StatusReason>, RegExp][] = [
    ['nobody is there', {}, CLOSED, { message: 'https://app.example/__ds cannot be reached' }, /running.*connect-src/],
    ['somebody of another origin', { [`no-cors ${HEALTH}`]: html() }, CLOSED, { message: 'https://app.example/__ds answers, but refuses the WebSocket' }, /--allow-origin/],
    ['a server that refuses the WebSocket', { [HEALTH]: healthy() }, CLOSED, { message: 'the server is there, but the WebSocket was refused' }, /log.*proxy.*origin.*token/],
    ['a development server without a proxy', { [HEALTH]: html() }, CLOSED, { message: 'https://app.example/__ds is not a datasole server', httpStatus: 200 }, /proxied/],
    ['the same, for the worker', { [HEALTH]: html() }, HOST, { message: 'https://app.example/__ds is not a datasole server', httpStatus: 200 }, /proxied/],
    ['another server', { [HEALTH]: html(404) }, CLOSED, { message: 'https://app.example/__ds is not a datasole server', httpStatus: 404 }, /proxied/],
    ['an upgrade that a proxy keeps', { [HEALTH]: html(426) }, CLOSED, { httpStatus: 426 }, /pass the upgrade/],
    ['a limit', { [HEALTH]: html(429) }, CLOSED, { message: 'https://app.example/__ds answered 429', httpStatus: 429 }, /rate/],
    ['a login', { [HEALTH]: html(401) }, CLOSED, { httpStatus: 401 }, /login/],
    ['a proxy whose server is away', { [HEALTH]: html(502) }, CLOSED, { httpStatus: 502 }, /behind the proxy is away/],
    ['the same, for the worker', { [HEALTH]: html(503) }, HOST, { httpStatus: 503 }, /behind the proxy is away/],
    ['a server that is not ready', { [HEALTH]: Response.json({ live: true }, { status: 503 }) }, CLOSED, { httpStatus: 503 }, /away/],
    ['a server of version 1', { [HEALTH]: Response.json({ status: 'ok' }) }, CLOSED, { message: 'the server is there, but the WebSocket was refused' }, /log/],
    ['a server with another worker', { [HEALTH]: healthy(), [WORKER]: html(404) }, HOST, { message: `the server has no ${WORKER}`, httpStatus: 404 }, /different versions/],
  ];
  for (const [what, answers, reason, expected, hint] of cases) {
    it(`by ${what} is explained (${reason.kind})`, async () => {
      const asked = answering(answers);
      const explained = await explain(ENDPOINT, reason, WORKER);
      for (const [part, value] of Object.entries(expected)) assert.equal(explained[part as 'message'], value, part);
      assert.match(explained.hint!, hint);
      assert.deepEqual([explained.kind, explained.code], [reason.kind, reason.code]);
      assert.equal(new Set(asked).size, asked.length, 'nothing is asked twice');
    });
  }

  it('whose HTTP status is known is explained without a question', async () => {
    const asked = answering({});
    const reason: StatusReason = { kind: 'closed', message: 'the server answered 426', httpStatus: 426 };
    const explained = await explain(ENDPOINT, reason, WORKER);
    assert.deepEqual(explained, { ...reason, hint: 'a proxy in front does not pass the upgrade on' });
    assert.deepEqual(asked, []);
  });

  it('whose reason says all is left alone', async () => {
    const asked = answering({});
    for (const reason of [
      { kind: 'unauthorized', code: 4002, message: 'expired' },
      { kind: 'closed', code: 1013, message: 'try again later' },
      { kind: 'offline', message: '' },
    ] as const) {
      assert.equal(await explain(ENDPOINT, reason, WORKER), reason);
    }
    assert.deepEqual(asked, []);
  });

  it('at one of several servers is explained by the first that something is wrong with', async () => {
    const other = 'https://other.example/__ds/health';
    const both = `${ENDPOINT} wss://other.example/__ds/`;
    answering({ [HEALTH]: healthy() });
    assert.equal((await explain(both, CLOSED, WORKER)).message, 'https://other.example/__ds cannot be reached');
    answering({ [other]: healthy() });
    assert.equal((await explain(both, CLOSED, WORKER)).message, 'https://app.example/__ds cannot be reached');
    answering({ [HEALTH]: healthy(), [other]: healthy() });
    assert.equal((await explain(both, CLOSED, WORKER)).message, 'the server is there, but the WebSocket was refused');
    const script = WORKER.replace('app.', 'other.');
    answering({ [HEALTH]: healthy(), [WORKER]: new Response(''), [other]: healthy(), [script]: html(404) });
    assert.equal((await explain(both, HOST, WORKER)).message, `the server has no ${script}`);
  });

  it('of a worker script that is there stays as it was', async () => {
    answering({ [HEALTH]: healthy(), [WORKER]: new Response('') });
    assert.equal(await explain(ENDPOINT, HOST, WORKER), HOST);
    answering({ [HEALTH]: healthy() });
    assert.equal(await explain(ENDPOINT, HOST, WORKER), HOST);
  });
});
