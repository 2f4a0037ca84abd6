// What every browser spec needs: the real server as a process, a real Chromium, and pages of the server's own origin.
//
// The pages' HTML is put in by request interception, so that a spec can give a page any header; scripts, wasm and the
// WebSocket come from the server. Nothing here sleeps: every wait is for an event or a condition in the page.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';

const npm = createRequire(new URL('../../npm/package.json', import.meta.url));
const { chromium } = npm('playwright-core');

const FIXTURE = process.env.FIXTURE ?? new URL('../../target/debug/examples/fixture', import.meta.url).pathname;
export const PROGRAM = process.env.DATASOLE_SERVER ?? new URL('../../target/debug/datasole', import.meta.url).pathname;
const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  // Pages put in by interception count as public, and may not connect to 127.0.0.1 otherwise.
  '--disable-features=LocalNetworkAccessChecks',
];
const TYPES = { html: 'text/html', js: 'text/javascript' };

/** How long anything in a spec may take before it counts as never happening, in milliseconds. */
export const PATIENCE = 30_000;

/** Where screenshots go. */
export const ARTIFACTS = process.env.ARTIFACTS ?? new URL('../../target/screenshots', import.meta.url).pathname;

/** A server as a process. */
export class Server {
  #command;
  #process;

  /** Starts the fixture on a free port; resolves once it accepts connections. */
  static start(...args) {
    return Server.#start((port) => [FIXTURE, '--port', String(port), ...args]);
  }

  /** The same with `datasole serve`. */
  static startProgram(...args) {
    return Server.#start((port) => [PROGRAM, 'serve', '--listen', `127.0.0.1:${port}`, ...args]);
  }

  static async #start(command) {
    const server = new Server();
    server.#command = command;
    await server.#spawn(0);
    return server;
  }

  get url() {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Ends it without any goodbye. */
  async kill() {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    const exit = once(this.#process, 'exit');
    this.#process.kill('SIGKILL');
    await exit;
  }

  /** Starts it again, on the same port, after a `kill`. */
  async restart() {
    await this.#spawn(this.port);
  }

  async #spawn(port) {
    const [program, ...args] = this.#command(port);
    this.#process = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    const address = new Promise((resolve, reject) => {
      createInterface({ input: this.#process.stdout }).on('line', (line) => {
        const found = /^listening (.+):(\d+)$/.exec(line);
        if (found) resolve(Number(found[2]));
      });
      this.#process.once('error', reject);
      this.#process.once('exit', (code) => reject(new Error(`${program} ended with ${code} before listening`)));
    });
    this.port = await address;
  }
}

/** Starts one Chromium for the specs of a file and ends it after them. */
export async function launch() {
  return chromium.launch({ executablePath: CHROMIUM, args: FLAGS });
}

/**
 * Files of a page that loads what `source`, a module, says; it may import what the npm package installs, and the package itself. It must set
 * `DatasoleClient`.
 */
export async function bundled(name, source) {
  const { build } = npm('esbuild');
  const served = {
    name: 'served',
    setup: ({ onResolve }) =>
      onResolve({ filter: /^\.\/(worker|node|datasole-\w+)\.mjs$/ }, ({ path }) => ({ path: `/__ds${path.slice(1)}`, external: true })),
  };
  const { outputFiles } = await build({
    stdin: { contents: source, resolveDir: new URL('../../npm', import.meta.url).pathname },
    bundle: true,
    format: 'esm',
    target: 'es2022',
    define: { 'process.env.NODE_ENV': '"development"' },
    conditions: ['browser', 'development'],
    // Another React than the one that the package is developed with, for everything that imports one.
    alias: process.env.REACT ? react(process.env.REACT) : {},
    plugins: [served],
    write: false,
    logLevel: 'warning',
  });
  return {
    [`${name}.html`]: `<!doctype html><meta charset="utf-8"><title>${name}</title><div id="root"></div><script type="module" src="${name}.js"></script>`,
    [`${name}.js`]: outputFiles[0].text,
  };
}

/** The packages of `npm/test/react-MAJOR`. */
function react(major) {
  const { resolve } = createRequire(new URL(`../../npm/test/react-${major}/package.json`, import.meta.url));
  return Object.fromEntries(['react', 'react-dom', 'scheduler'].map((name) => [name, dirname(resolve(`${name}/package.json`))]));
}

/** What a page sends and is sent over its WebSockets: the opcode of each message. For clients without a worker. */
export function wire(page) {
  const log = { sockets: 0, sent: [], received: [] };
  page.on('websocket', (socket) => {
    log.sockets++;
    socket.on('framesent', ({ payload }) => log.sent.push(payload[0]));
    socket.on('framereceived', ({ payload }) => log.received.push(payload[0]));
  });
  return log;
}

/**
 * Declares the specs of one file. `define` gets `spec(name, body, timeout)`; each body runs with a server, a browser context and
 * `open(page, headers)` of its own, and fails when a page of it reports an error that the spec did not ask for, or after
 * `timeout` milliseconds. `start` starts the server: the fixture, unless told otherwise.
 */
export function describeInBrowser(define, start = () => Server.start()) {
  let browser;
  before(async () => {
    browser = await launch();
  });
  after(() => browser.close());

  define((name, body, timeout = 2 * PATIENCE) => {
    test(name, { timeout }, async () => {
      const server = await start();
      const context = await browser.newContext();
      const world = new World(server, context);
      try {
        await body(world);
        if (world.errors.length > 0) throw new AggregateError(world.errors, `a page failed: ${world.errors[0].message}`);
      } finally {
        await context.close();
        await server.kill();
      }
    });
  });
}

/** What a spec works with. */
export class World {
  /** Uncaught errors of all pages; a spec that provokes one takes it out. */
  errors = [];

  constructor(server, context) {
    this.server = server;
    this.context = context;
    context.setDefaultTimeout(PATIENCE);
  }

  /** Files of pages, by name, beside those of `pages/`. */
  files = {};

  /** A page of the server's origin: `iife`, `esm`, or another file of `pages/`. */
  async open(name = 'iife', headers = {}) {
    const folder = new URL('pages/', import.meta.url);
    await this.context.unroute('**/pages/*');
    await this.context.route('**/pages/*', async (route) => {
      const file = new URL(route.request().url()).pathname.split('/').pop();
      const contentType = TYPES[file.split('.').pop()];
      const body = this.files[file] ?? (await readFile(new URL(file, folder)));
      await route.fulfill({ body, contentType, headers });
    });
    const page = await this.context.newPage();
    page.setDefaultTimeout(PATIENCE);
    page.on('pageerror', (error) => this.errors.push(error));
    await page.goto(`${this.server.url}/pages/${name}.html`);
    await page.waitForFunction(() => typeof DatasoleClient === 'function');
    return page;
  }

  /** A page whose `window.client` is connected. */
  async connected(options = {}, name = 'iife') {
    const page = await this.open(name);
    await connect(page, options);
    return page;
  }
}

/** Makes `window.client` and connects it. */
export function connect(page, options = {}) {
  return page.evaluate(async (options) => {
    window.client = new DatasoleClient({ url: location.origin, ...options });
    await client.connect();
  }, options);
}

/** As `connect`, for a connection that must fail: the error, as plain data, and the state it left behind. */
export function refused(page, options) {
  return page.evaluate(async (options) => {
    window.client = new DatasoleClient({ url: location.origin, ...options });
    const error = await client.connect().then(() => null, (error) => error);
    const state = client.getConnectionState();
    return error && { name: error.name, message: error.message, code: error.code, state };
  }, options);
}

/** Calls a method; a failure comes back as `{error: {name, message, code, data}}`. */
export function rpc(page, method, params = null) {
  return page.evaluate(
    ([method, params]) =>
      client.rpc(method, params).catch(({ name, message, code, data }) => ({ error: { name, message, code, data } })),
    [method, params],
  );
}

/** Follows a state; every value its handler gets is kept in `window.seen[key]`. */
export function follow(page, key) {
  return page.evaluate((key) => {
    window.seen ??= {};
    seen[key] = [];
    window.subscription = client.subscribeState(key, (value) => seen[key].push(value));
  }, key);
}

/** Waits until the page's value of a state is `expected`. */
export function untilState(page, key, expected) {
  return until(page, ([key, text]) => JSON.stringify(client.getState(key)) === text, [key, JSON.stringify(expected)]);
}

/** Waits until `condition` holds in the page. */
export function until(page, condition, argument) {
  return page.waitForFunction(condition, argument, { polling: 20, timeout: PATIENCE });
}
