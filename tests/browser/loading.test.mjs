// What can go wrong, or be forbidden, before a client runs: missing files, a strict content security policy.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';

import { connect, describeInBrowser, refused, rpc } from './harness.mjs';

const npm = createRequire(new URL('../../npm/package.json', import.meta.url));

const STRICT = { 'content-security-policy': "default-src 'self'" };

describeInBrowser((spec) => {
  spec('a missing worker script rejects connect()', async (world) => {
    const error = await refused(await world.open(), { workerUrl: '/missing-worker.js', maxReconnectAttempts: 0 });
    assert.match(error.message, /worker/i);
    assert.deepEqual([error.name, error.code, error.state], ['DatasoleError', -32106, 'disconnected']);
  });

  for (const useWorker of [true, false]) {
    const mode = useWorker ? 'worker' : 'in-thread';

    spec(`a missing wasm rejects connect(), ${mode}`, async (world) => {
      const error = await refused(await world.open(), { useWorker, wasmUrl: '/missing.wasm', maxReconnectAttempts: 0 });
      assert.match(error.message, /wasm/i);
      assert.deepEqual([error.name, error.code, error.state], ['DatasoleError', -32106, 'disconnected']);
    });

    spec(`a file that is no wasm rejects connect(), ${mode}`, async (world) => {
      const error = await refused(await world.open(), { useWorker, wasmUrl: '/pages/iife.html' });
      assert.match(error.message, /wasm/i);
      assert.deepEqual([error.name, error.code, error.state], ['DatasoleError', -32106, 'disconnected']);
    });
  }

  spec('another client on the page works after one that could not load', async (world) => {
    const page = await world.open();
    await refused(page, { workerUrl: '/missing-worker.js', maxReconnectAttempts: 0 });
    await connect(page);
    assert.equal(await rpc(page, 'echo', 7), 7);
  });

  spec("the worker's old URL answers the page of an old client with an error", async (world) => {
    const page = await world.open('iife', STRICT);
    const answers = await page.evaluate(
      () =>
        new Promise((resolve, reject) => {
          const worker = new Worker('/__ds/datasole-worker.iife.min.js');
          const answers = [];
          worker.onerror = ({ message }) => reject(new Error(message));
          worker.onmessage = ({ data }) => {
            answers.push(data);
            if (answers.length === 2) resolve(answers);
          };
          worker.postMessage({ type: 'connect', payload: { url: 'ws://127.0.0.1:1' } });
        }),
    );
    assert.equal(JSON.parse(answers[0])[0].t, 'fatal');
    assert.equal(answers[1].type, 'error');
    assert.match(answers[1].payload.message, /datasole-worker\.v\d+\.js/);
    const error = await refused(page, { workerUrl: '/__ds/datasole-worker.iife.min.js' });
    assert.match(error.message, /datasole-worker\.v\d+\.js/);
    assert.deepEqual([error.name, error.code, error.state], ['DatasoleError', -32106, 'disconnected']);
  });

  spec('a page of the version before runs on worker and wasm of that version, beside pages of this one', async (world) => {
    // As they would be: ours, with the number changed.
    const earlier = (text) => {
      const changed = text.replace(/(PROTOCOL_VERSION = )3;/, (_, before) => `${before}2;`);
      assert.notEqual(changed, text, 'the number is where it was');
      return changed;
    };
    const served = await world.context.request.get(`${world.server.url}/__ds/worker.mjs`);
    const worker = earlier(await served.text());
    // Of the client, whose build leaves no number to be found.
    const { outputFiles } = await npm('esbuild').build({
      entryPoints: [new URL('../../npm/src/client.ts', import.meta.url).pathname],
      bundle: true,
      format: 'esm',
      write: false,
      define: { IIFE: 'false', BUILD: '"earlier"', INLINE_WASM: 'undefined' },
      external: ['./worker.js', './node.js', './probe.js', './shared.js'],
      plugins: [
        {
          name: 'earlier',
          setup: ({ onLoad }) =>
            onLoad({ filter: /protocol\.ts$/ }, async ({ path }) => ({ contents: earlier(await readFile(path, 'utf8')), loader: 'ts' })),
        },
      ],
    });
    const client = outputFiles[0].text;
    const asked = [];
    const serve = (name, options) =>
      world.context.route(`**/__ds/${name}`, (route) => asked.push(name) && route.fulfill({ contentType: 'text/javascript', ...options }));
    await serve('client.mjs', { body: client });
    await serve('datasole-worker.v2.js', { body: worker.replace(/^export \{[^}]*\};$/m, '') });
    await serve('datasole.v2.wasm', { contentType: 'application/wasm', path: new URL('../../npm/dist/datasole.v3.wasm', import.meta.url).pathname });
    const old = await world.connected({}, 'esm');
    assert.equal(await rpc(old, 'echo', 'old'), 'old');
    assert.deepEqual([...asked].sort(), ['client.mjs', 'datasole-worker.v2.js', 'datasole.v2.wasm']);
    const page = await world.connected();
    assert.equal(await rpc(page, 'echo', 'new'), 'new');
    assert.equal(asked.length, 3);
  });

  for (const build of ['iife', 'esm']) {
    spec(`a page under default-src 'self' needs nothing more, ${build}`, async (world) => {
      const page = await world.open(build, STRICT);
      await connect(page);
      assert.equal(page.workers().length, 1);
      assert.equal(await rpc(page, 'echo', 'strict'), 'strict');
    });
  }

  spec("in-thread under default-src 'self' says what forbids it", async (world) => {
    const error = await refused(await world.open('iife', STRICT), { useWorker: false });
    assert.match(error.message, /wasm|WebAssembly/);
    assert.equal(error.state, 'disconnected');
  });

  spec('the files come with the headers browsers need', async (world) => {
    const get = async (name) => world.context.request.get(`${world.server.url}/__ds/${name}`);
    for (const [name, type] of [
      ['datasole.iife.min.js', 'text/javascript'],
      ['datasole.slim.iife.min.js', 'text/javascript'],
      ['client.mjs', 'text/javascript'],
      ['datasole-worker.v3.js', 'text/javascript'],
      ['datasole-worker.iife.min.js', 'text/javascript'],
      ['datasole.v3.wasm', 'application/wasm'],
    ]) {
      const response = await get(name);
      assert.equal(response.status(), 200, name);
      const headers = response.headers();
      assert.match(headers['content-type'], new RegExp(`^${type}`), name);
      assert.equal(headers['content-encoding'], 'br', name);
      assert.match(headers.etag, /^"[^"]+"$/, name);
    }
    const worker = (await get('datasole-worker.v3.js')).headers();
    assert.match(worker['content-security-policy'], /script-src 'self' 'wasm-unsafe-eval'/);
  });
});
