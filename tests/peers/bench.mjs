// datasole beside others that npm has, all driven by their own clients in Node: CPU of the server process per operation, and
// bytes through a counting relay. Standard error has one table, standard output a JSON line for each of its cells.
//
// `cargo xtask bench --peers` copies this folder beside the packages that it installs, and names the npm package of this
// repository (`NPM`), the fixture server (`FIXTURE`) and an editing session (`TRACE_DATA`).
//
// Node's clients send one message in each write, so calls and events measure wake-ups as much as protocols; and a small
// machine has clients and server on the same cores. CPU time is the judge, in turns. Nothing here is a bar.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir, readFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { gunzipSync } from 'node:zlib';

import { HocuspocusProvider, HocuspocusProviderWebsocket } from '@hocuspocus/provider';
import { io } from 'socket.io-client';
import { WebSocket } from 'ws';
import { WebsocketProvider } from 'y-websocket';
import { Doc } from 'yjs';

const ROUNDS = 3;
const SMALL = { id: 4711, name: 'small' };
const TICK = { symbol: 'DSOL', bid: 101.25, ask: 101.5 };
const TABLE = { rows: Array.from({ length: 20 }, (_, id) => ({ id, name: `sensor ${id}`, value: 20 + id, status: 'running as it should, thank you' })) };
const AUDIENCE = 50;
const EDITS = 6_000;
/** Edits that a writer is ahead of the reader, at most. */
const WINDOW = 32;

// Node 20 has none.
globalThis.WebSocket ??= WebSocket;
const ours = (name) => import(new URL(name, pathToFileURL(`${process.env.NPM}/`)));
const { DatasoleClient } = await ours('dist/client.mjs');
const { DatasoleProvider } = await ours('dist/yjs.mjs');
/** The documents of the package beside them. */
const { Doc: OurDoc } = await ours('node_modules/yjs/dist/yjs.mjs');

/** How each is connected to: `call`, `publish`, and what tells of events. */
const CLIENTS = {
  async datasole(url) {
    const client = new DatasoleClient({ url });
    await client.connect();
    return {
      call: (params) => client.rpc('echo', params),
      publish: (data) => client.emit('chat:message', data),
      listen: async (handler) => {
        client.on('chat:message', handler);
        await client.rpc('echo', SMALL);
      },
      close: () => client.disconnect(),
    };
  },

  async 'socket.io'(url) {
    const socket = io(url, { transports: ['websocket'], forceNew: true });
    await new Promise((resolve, reject) => socket.once('connect', resolve).once('connect_error', reject));
    return {
      call: (params) => socket.emitWithAck('echo', params),
      publish: (data) => socket.emit('publish', data),
      listen: (handler) => socket.on('news', handler),
      close: () => socket.close(),
    };
  },

  async ws(url) {
    const socket = new WebSocket(url.replace('http', 'ws'), { perMessageDeflate: false });
    await once(socket, 'open');
    const calls = new Map();
    let handler;
    let last = 0;
    socket.on('message', (text) => {
      const message = JSON.parse(text);
      if (message.event) return handler?.(message);
      calls.get(message.id)(message.result);
      calls.delete(message.id);
    });
    return {
      call: (params) =>
        new Promise((resolve) => {
          calls.set(++last, resolve);
          socket.send(JSON.stringify({ id: last, method: 'echo', params }));
        }),
      publish: (params) => socket.send(JSON.stringify({ method: 'publish', params })),
      listen: (given) => void (handler = given),
      close: () => socket.terminate(),
    };
  },
};

/** A provider of each. */
const PROVIDERS = {
  async datasole(url, doc) {
    const client = new DatasoleClient({ url });
    await client.connect();
    const provider = new DatasoleProvider(client, 'paper', doc);
    return { provider, close: () => (provider.destroy(), client.disconnect()) };
  },

  async hocuspocus(url, document) {
    const websocketProvider = new HocuspocusProviderWebsocket({ url: url.replace('http', 'ws'), WebSocketPolyfill: WebSocket });
    const provider = new HocuspocusProvider({ websocketProvider, name: 'paper', document });
    provider.attach();
    return { provider, close: () => (provider.destroy(), websocketProvider.destroy()) };
  },

  async 'y-websocket'(url, doc) {
    const provider = new WebsocketProvider(url.replace('http', 'ws'), 'paper', doc, { WebSocketPolyfill: WebSocket, disableBc: true });
    return { provider, close: () => provider.destroy() };
  },
};

const ROWS = [
  { row: 'call small, 16 × 4', clients: 16, work: (clients) => calls(clients, SMALL, 4, 50) },
  { row: 'call 2 KB, 16 × 1', clients: 16, work: (clients) => calls(clients, TABLE, 1, 50) },
  { row: `event small, ${AUDIENCE} subscribers, burst`, clients: AUDIENCE, work: (clients) => events(clients, TICK, 100) },
  { row: `event 2 KB, ${AUDIENCE} subscribers, burst`, clients: AUDIENCE, work: (clients) => events(clients, TABLE, 100) },
];

const cells = [];

async function calls(clients, params, inFlight, turns) {
  const chain = async (client) => {
    for (let turn = 0; turn < turns; turn++) await client.call(params);
  };
  await Promise.all(clients.flatMap((client) => Array.from({ length: inFlight }, () => chain(client))));
  return clients.length * inFlight * turns;
}

/** Events from one to all. */
async function events(clients, data, count) {
  let left = count * clients.length;
  let done;
  const all = new Promise((resolve) => (done = resolve));
  const handler = () => --left === 0 && done();
  if (clients.listening) clients.listening.current = handler;
  else {
    const listening = (clients.listening = { current: handler });
    await Promise.all(clients.map((client) => client.listen((event) => listening.current(event))));
  }
  for (let n = 0; n < count; n++) clients[0].publish(data);
  await all;
  return count * clients.length;
}

/** Keystroke by keystroke, never far ahead of the reader. */
async function type(text, reader) {
  for (const [index, [at, deleted, inserted]] of edits.entries()) {
    if (deleted) text.delete(at, deleted);
    if (inserted) text.insert(at, inserted);
    if (index % WINDOW === 0 || index === edits.length - 1) {
      while (reader.length !== text.length) await new Promise((resolve) => reader.doc.once('update', resolve));
    }
    // Each a message of its own.
    await new Promise((resolve) => setImmediate(resolve));
  }
  return edits.length;
}

/** A server as a process, behind a relay that counts. */
class Server {
  bytes = 0;

  static async start(name) {
    const server = new Server();
    const command =
      name === 'datasole' ? [process.env.FIXTURE] : [process.execPath, fileURLToPath(new URL('servers.mjs', import.meta.url)), name];
    server.process = spawn(command[0], command.slice(1), { stdio: ['ignore', 'pipe', 'inherit'] });
    const [line] = await once(createInterface({ input: server.process.stdout }), 'line');
    const port = Number(/:(\d+)$/.exec(line)[1]);
    server.relay = createServer((near) => {
      const far = connect(port, '127.0.0.1');
      for (const [from, to] of [[near, far], [far, near]]) {
        from.setNoDelay(true);
        from.on('data', (data) => {
          server.bytes += data.length;
          to.write(data);
        });
        from.on('close', () => to.destroy());
        // The other end is told by `close`.
        from.on('error', () => {});
      }
    });
    server.relay.listen(0, '127.0.0.1');
    await once(server.relay, 'listening');
    server.url = `http://127.0.0.1:${server.relay.address().port}`;
    return server;
  }

  /** CPU time of all its threads, once none has run for a while; microseconds. */
  async cpu() {
    const { pid } = this.process;
    let before;
    for (;;) {
      let used = 0;
      for (const thread of await readdir(`/proc/${pid}/task`)) {
        used += Number((await readFile(`/proc/${pid}/task/${thread}/schedstat`, 'utf8')).split(' ')[0]) / 1_000;
      }
      if (used === before) return used;
      before = used;
      await sleep(50);
    }
  }

  async resident() {
    return Number(/VmRSS:\s+(\d+)/.exec(await readFile(`/proc/${this.process.pid}/status`, 'utf8'))[1]) * 1024;
  }

  async stop() {
    this.process.kill('SIGKILL');
    this.relay.close();
    await once(this.process, 'exit');
  }
}

async function measure(server, work) {
  const [cpu, { bytes }] = [await server.cpu(), server];
  const operations = await work();
  return { us: ((await server.cpu()) - cpu) / operations, bytes: (server.bytes - bytes) / operations };
}

function median(figures, name) {
  const sorted = figures.map((figure) => figure[name]).sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

function cell(row, name, us, bytes, rss) {
  const round = (figure) => Number(figure.toFixed(2));
  const one = { bench: `peers: ${row}`, server: name, us: round(us), wire_bytes: round(bytes), ...(rss && { rss_mib: round(rss) }) };
  cells.push({ row, name, ...one });
  console.log(JSON.stringify(one));
}

/** CPU of the server per operation, and bytes both ways. */
function table() {
  const names = [...new Set(cells.map(({ name }) => name))];
  const line = (parts) => console.error(`| ${parts.join(' | ')} |`);
  line(['server µs / bytes per operation', ...names]);
  line(['---', ...names.map(() => '---')]);
  for (const row of new Set(cells.map(({ row }) => row))) {
    const text = (name) => {
      const found = cells.find((cell) => cell.row === row && cell.name === name);
      if (!found) return '–';
      return `${found.us} / ${found.wire_bytes}${found.rss_mib ? ` / ${found.rss_mib} MiB` : ''}`;
    };
    line([row, ...names.map(text)]);
  }
}

for (const { row, clients: count, work } of ROWS) {
  const rigs = [];
  for (const name of Object.keys(CLIENTS)) {
    const server = await Server.start(name);
    rigs.push({ name, server, clients: await Promise.all(Array.from({ length: count }, () => CLIENTS[name](server.url))), figures: [] });
  }
  for (let round = 0; round <= ROUNDS; round++) {
    for (const { server, clients, figures } of rigs) {
      const measured = await measure(server, () => work(clients));
      // Round 0 warms up.
      if (round > 0) figures.push(measured);
    }
  }
  for (const { name, server, clients, figures } of rigs) {
    clients.forEach((client) => client.close());
    await server.stop();
    cell(row, name, median(figures, 'us'), median(figures, 'bytes'));
  }
}
const { txns } = JSON.parse(gunzipSync(await readFile(process.env.TRACE_DATA)));
const edits = txns.flatMap(({ patches }) => patches).slice(0, EDITS);
for (const name of Object.keys(PROVIDERS)) {
  const server = await Server.start(name);
  const [writer, reader] = Array.from({ length: 2 }, () => (name === 'datasole' ? new OurDoc() : new Doc()));
  const ends = [await PROVIDERS[name](server.url, writer), await PROVIDERS[name](server.url, reader)];
  await Promise.all(ends.map(({ provider }) => provider.synced || new Promise((resolve) => provider.on('synced', resolve))));
  const { us, bytes } = await measure(server, () => type(writer.getText('text'), reader.getText('text')));
  const rss = await server.resident();
  ends.forEach((end) => end.close());
  await server.stop();
  cell(`document, ${EDITS} edits to one reader`, name, us, bytes, rss / 2 ** 20);
}
table();
process.exit();
