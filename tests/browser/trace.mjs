// A real editing session, keystroke by keystroke, through the real server: from a page with Yjs to a native client with
// yrs, then from the native client to the page. Both must end with the text that the trace ends with.
//
// Standard output has one JSON line per way. The bar is on what the server receives (of the reader next to nothing): the
// bytes of one edit, sent by itself, against the bare Yjs update with a frame's header. Time is wall time, for people: it is no bar, and each line has what the same edits cost
// without a network in the same run.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';

import { launch, Server, World, rpc } from './harness.mjs';

const NPM = fileURLToPath(new URL('../../npm/', import.meta.url));
const { build } = createRequire(`${NPM}package.json`)('esbuild');
const TRACE = process.env.TRACE ?? new URL('../../target/release/examples/trace', import.meta.url).pathname;
const DATA = fileURLToPath(new URL('../data/automerge-paper.json.gz', import.meta.url));

const HEADER = 9;
/** Bytes of an edit's message, at most so many times the bare update's with a header. */
const BAR = 1.3;

const { txns, endContent } = JSON.parse(gunzipSync(await readFile(DATA)));
const edits = txns.flatMap(({ patches }) => patches);

const server = await Server.start();
const browser = await launch();
try {
  const world = new World(server, await browser.newContext());
  world.context.setDefaultTimeout(0);
  const page = await world.connected();
  await page.addScriptTag({ content: await script() });
  await page.evaluate((edits) => (window.edits = edits), edits);
  const alone = await page.evaluate(() => Trace.alone(edits));

  const reader = await native('receive', 'paper');
  const before = await counted(page);
  const sent = await page.evaluate(() => Trace.replay(client, 'paper', edits));
  assert.ok(sent.text === endContent, 'the page has the text of the trace');
  await reader.said;
  await report('trace-browser-to-native', page, before, { ...sent, alone_s: alone });

  const there = page.evaluate((expected) => Trace.receive(client, 'paper-back', expected), endContent);
  const back = await counted(page);
  const replayed = await (await native('replay', 'paper-back')).said;
  assert.ok(replayed.text === endContent, 'the native client has the text of the trace');
  await there;
  await report('trace-native-to-browser', page, back, replayed);
} finally {
  await browser.close();
  await server.kill();
}

/**
 * Starts the native client, which `cargo xtask bench` has built: it writes `ready`, and one line of JSON when it is done,
 * which `said` waits for.
 */
async function native(task, key) {
  const process = spawn(TRACE, [server.url, task, key, DATA], { stdio: ['ignore', 'pipe', 'inherit'] });
  const lines = createInterface({ input: process.stdout });
  process.once('error', (error) => lines.emit('error', error));
  process.once('exit', (code) => code && lines.emit('error', new Error(`the native client ended with ${code}`)));
  const [ready] = await once(lines, 'line');
  assert.equal(ready, 'ready');
  return { said: once(lines, 'line').then(([line]) => JSON.parse(line)) };
}

/** What the page needs beside the client. */
async function script() {
  const contents = `
    import * as Y from 'yjs';
    import { DatasoleProvider } from './src/yjs.ts';

    const edit = (text, [at, deleted, inserted]) => {
      if (deleted) text.delete(at, deleted);
      if (inserted) text.insert(at, inserted);
    };
    const until = (provider, condition) =>
      new Promise((resolve) => {
        const check = () => condition() && (provider.off('pending', check), provider.off('synced', check), resolve());
        provider.on('pending', check);
        provider.on('synced', check);
        check();
      });

    /** Seconds for the edits by themselves. */
    export function alone(edits) {
      const text = new Y.Doc().getText('text');
      const began = performance.now();
      for (const one of edits) edit(text, one);
      return (performance.now() - began) / 1000;
    }

    /** Each edit is a change of its own, and waits until it can be sent by itself. */
    export async function replay(client, key, edits) {
      const doc = new Y.Doc();
      const provider = new DatasoleProvider(client, key, doc);
      await until(provider, () => provider.synced && !provider.pending);
      let updates = 0;
      let bytes = 0;
      doc.on('update', (update, origin) => {
        if (origin === provider) return;
        updates += 1;
        bytes += update.length;
      });
      const text = doc.getText('text');
      const began = performance.now();
      for (const one of edits) {
        edit(text, one);
        if (provider.pending >= 32) await until(provider, () => provider.pending < 16);
      }
      await until(provider, () => !provider.pending);
      const seconds = (performance.now() - began) / 1000;
      return { updates, bytes, seconds, text: text.toString() };
    }

    /** Until the text is the expected one. */
    export async function receive(client, key, expected) {
      const doc = new Y.Doc();
      const text = doc.getText('text');
      new DatasoleProvider(client, key, doc);
      await new Promise((resolve) => {
        doc.on('update', () => text.length === expected.length && text.toString() === expected && resolve());
      });
    }
  `;
  const { outputFiles } = await build({
    stdin: { contents, resolveDir: NPM, loader: 'js' },
    bundle: true,
    write: false,
    format: 'iife',
    globalName: 'Trace',
    target: 'es2022',
  });
  return outputFiles[0].text;
}

async function counted(page) {
  return rpc(page, 'metrics');
}

async function memory(pid) {
  return Number(/VmRSS:\s+(\d+)/.exec(await readFile(`/proc/${pid}/status`, 'utf8'))[1]) * 1024;
}

async function report(bench, page, before, { updates, bytes, seconds, alone_s }) {
  const after = await counted(page);
  const wire = after.bytesIn - before.bytesIn;
  const bare = bytes + HEADER * updates;
  const line = {
    bench,
    edits: updates,
    seconds,
    alone_s,
    edits_per_s: updates / seconds,
    wire_bytes_per_edit: wire / updates,
    bare_bytes_per_edit: bare / updates,
    ratio: wire / bare,
    bytes_in: wire,
    bytes_out: after.bytesOut - before.bytesOut,
    server_rss_mib: (await memory(after.pid)) / 2 ** 20,
    bar: BAR,
    ok: wire / bare <= BAR,
  };
  if (!line.ok) process.exitCode = 1;
  const round = (value) => (typeof value === 'number' ? Number(value.toFixed(3)) : value);
  console.log(JSON.stringify(Object.fromEntries(Object.entries(line).map(([name, value]) => [name, round(value)]))));
}
