// A page that no automation watches: Chromium started with its address and nothing else, told what to do by a WebSocket of
// its own. DevTools' network domain, which test drivers switch on for every page, costs more than what is measured here:
// each frame of a worker's socket is reported through three other threads.
//
// What its threads cost is read from /proc, as the server's benchmarks do it; Linux only.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { extname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const npm = createRequire(new URL('../../../npm/package.json', import.meta.url));
const { WebSocketServer } = npm('ws');

const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const FLAGS = [
  '--headless=new',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];
const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.mjs': 'text/javascript', '.wasm': 'application/wasm' };
/** The thread of a dedicated worker, as the kernel shows it. */
const WORKER = 'DedicatedWorker';
/** Signals that end the bench, by number. */
const SIGNALS = { SIGINT: 2, SIGTERM: 15 };
/** A thread is at rest when it has not run for so long; milliseconds. */
const REST = 30;

/** Its processes may still write while they end. */
const REMOVED = { recursive: true, force: true, maxRetries: 20, retryDelay: 50 };

/** A browser with one page. */
export class QuietPage {
  #process;
  #profile;
  #server;
  #sockets;
  #control;
  #answers = new Map();
  #next = 0;
  /** The renderer's process. */
  #renderer;
  /** An interrupted bench leaves neither browser nor profile. */
  #exit = () => {
    this.#kill();
    rmSync(this.#profile, REMOVED);
  };
  #interrupt = (signal) => process.exit(128 + SIGNALS[signal]);

  /** Starts a browser on a page of `files`, by their path; the page connects to `/control` and `/texts`. */
  static async open(path, files) {
    const page = new QuietPage();
    await page.#serve(files);
    const { port } = page.#server.address();
    page.#profile = await mkdtemp(join(tmpdir(), 'datasole-bench-'));
    const address = `http://127.0.0.1:${port}${path}`;
    page.#process = spawn(CHROMIUM, [...FLAGS, `--user-data-dir=${page.#profile}`, address], { stdio: 'ignore', detached: true });
    process.on('exit', page.#exit);
    for (const signal in SIGNALS) process.on(signal, page.#interrupt);
    const ended = once(page.#process, 'exit').then(() => Promise.reject(new Error(`${CHROMIUM} ended`)));
    // Once the page is there nobody waits for it.
    ended.catch(() => {});
    page.#control = await Promise.race([page.socket('/control'), ended]);
    page.#control.on('message', (text) => page.#answered(JSON.parse(text)));
    return page;
  }

  /** The next WebSocket that the page, or a worker of it, opens at `path`. */
  async socket(path) {
    const [socket] = await once(this.#sockets, path);
    return socket;
  }

  /** Has the page call one of its `commands`; what that returns. */
  tell(command, argument) {
    const id = this.#next++;
    const answer = new Promise((resolve, reject) => this.#answers.set(id, { resolve, reject }));
    this.#control.send(JSON.stringify({ id, command, argument }));
    return answer;
  }

  #answered({ id, value, error }) {
    const { resolve, reject } = this.#answers.get(id);
    this.#answers.delete(id);
    if (error) reject(new Error(`the page failed: ${error}`));
    else resolve(value);
  }

  /** The threads of the page: its own, and those of its workers in the order of their birth. */
  async threads() {
    this.#renderer ??= await this.#findRenderer();
    return [this.#renderer, ...(await workers(this.#renderer))];
  }

  /** The CPU time of threads, read while all of them rest; microseconds. */
  async cpu(threads) {
    let before = [];
    for (;;) {
      const used = await Promise.all(threads.map((thread) => cpu(this.#renderer, thread)));
      if (used.every((micros, index) => micros === before[index])) return used;
      before = used;
      await sleep(REST);
    }
  }

  /** Ends the browser, all its processes. */
  #kill() {
    try {
      process.kill(-this.#process.pid, 'SIGKILL');
    } catch {
      // It has ended.
    }
  }

  async close() {
    this.#kill();
    process.off('exit', this.#exit);
    for (const signal in SIGNALS) process.off(signal, this.#interrupt);
    this.#sockets.clients.forEach((socket) => socket.terminate());
    this.#server.close();
    await rm(this.#profile, REMOVED);
  }

  async #serve(files) {
    this.#server = createServer(async (request, response) => {
      const file = files[request.url];
      if (!file) return response.writeHead(404).end();
      response.writeHead(200, { 'content-type': TYPES[extname(request.url)] }).end(await readFile(file));
    });
    this.#sockets = new WebSocketServer({ server: this.#server, perMessageDeflate: false, maxPayload: 64 * 1024 * 1024 });
    this.#sockets.on('connection', (socket, { url }) => this.#sockets.emit(url, socket));
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
  }

  /** The process of this browser that has a worker; the page has one by now. */
  async #findRenderer() {
    for (const name of await readdir('/proc')) {
      // A process that ends meanwhile is another one.
      const command = /^\d+$/.test(name) ? await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '') : '';
      if (!command.includes('--type=renderer') || !command.includes(this.#profile)) continue;
      const process = Number(name);
      if ((await workers(process)).length > 0) return process;
    }
    throw new Error('no renderer of the page has a worker');
  }
}

async function workers(process) {
  const threads = (await readdir(`/proc/${process}/task`)).map(Number).sort((a, b) => a - b);
  const names = await Promise.all(threads.map((thread) => readFile(`/proc/${process}/task/${thread}/comm`, 'utf8')));
  return threads.filter((_, index) => names[index].startsWith(WORKER));
}

/** The kernel brings the figure up to date when the thread leaves the CPU. */
async function cpu(process, thread) {
  const schedstat = await readFile(`/proc/${process}/task/${thread}/schedstat`, 'utf8');
  return Number(schedstat.split(' ')[0]) / 1_000;
}
