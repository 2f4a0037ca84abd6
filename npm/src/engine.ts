/**
 * The host of the wasm core: owns its sockets and its timer, passes messages in and batches out.
 *
 * Runs in the worker, or on the thread that asked for it. Every way into wasm leads through {@link Engine.#enter}: a
 * panic ends in a trap, which is told to the other side as `fatal` and never escapes into a socket's event loop.
 */
import { createGlue, type Core } from '../generated/glue.js';
import type { Port } from './port.js';
import { PROTOCOL_VERSION, type Batch, type CoreInput, type FromWorker, type ToolsAnswer, type ToolsCommand, type ToolsName, type ToWorker } from './protocol.js';
import { perform, Recording, replay } from './session.js';

/** Set by `npm/build.mjs`: what the package is, and in one build the wasm itself, in base64. */
declare const BUILD: string;
declare const INLINE_WASM: string | undefined;

/** Where a script that is asked to start no worker leaves {@link createEngine}. */
export const ENGINE_SLOT = Symbol.for('datasole.engine');

/**
 * The minimum time between batches of pushed messages; doubled by each batch that had to wait, up to the time of a frame: a flood
 * wakes main 60 times a second (oftener where 64 KiB gather before), not a thousand. The first message after a pause, and every awaited answer, leaves at once and takes
 * the gathered messages along.
 */
const COALESCE_MS = 4;
const COALESCE_MAX_MS = 16;

/** The reason of what `datasole/devtools` does to a connection. */
const SIMULATED = 'simulated by datasole/devtools';

/** Takes a batch to the other side; the buffers may be transferred. */
export type Post = (batch: Batch, transfer: ArrayBuffer[]) => void;

/** The constructor of sockets, as browsers have it. */
export type SocketConstructor = new (url: string, protocols: string[]) => WebSocket;

/** A socket that knows why its upgrade was refused, where the platform tells. */
export interface RefusedSocket extends WebSocket {
  refusal?: {
    /** The HTTP status. */
    status: number;
    /** A datasole server refused, and nothing in between. */
    ours: boolean;
    /** Milliseconds. */
    retryAfter?: number;
  };
}

/** A host with a core of its own: engines share nothing, a panic in one leaves the others alone. */
export interface Engine extends Port {
  /** Takes messages in order. */
  post(messages: ToWorker[]): void;
}

/** Makes an engine, which says `here` through `post`; with a `module` it loads no wasm. */
export type CreateEngine = (post: Post, socket?: SocketConstructor, module?: WebAssembly.Module) => Engine;

/** See {@link CreateEngine}. */
export const createEngine: CreateEngine = (post, socket = globalThis.WebSocket, module) => new WasmEngine(post, socket, module);

class WasmEngine implements Engine {
  readonly #post: Post;
  readonly #socket: SocketConstructor;
  #module?: WebAssembly.Module;
  readonly #sockets = new Map<number, WebSocket>();
  #core?: Core;
  /** The core's time: of the last way into it, so that it does not pass while the core is at work. */
  #now = 0;
  #recording?: Recording;
  /** Simulated: there is no network, and how long messages take. */
  #offline = false;
  #latency = 0;
  /** Messages under way, once a latency was simulated. */
  #late?: (() => void)[];
  #timer?: ReturnType<typeof setTimeout>;
  /** The batch being taken. */
  #parts: (string | Uint8Array)[] = [];
  /** The batch has waited long enough. */
  #full = false;
  /** When the last batch left, and how long the next one waits. */
  #flushed = -Infinity;
  #pause = COALESCE_MS;
  #delayed?: ReturnType<typeof setTimeout>;
  #dead = false;
  readonly #loading = new AbortController();

  constructor(post: Post, socket: SocketConstructor, module: WebAssembly.Module | undefined) {
    this.#post = post;
    this.#socket = socket;
    this.#module = module;
    this.#say({ t: 'here', v: PROTOCOL_VERSION });
  }

  post(messages: ToWorker[]): void {
    for (const message of messages) this.#enter(() => this.#perform(message));
  }

  end(): void {
    this.post([{ t: 'close' }]);
  }

  #perform(message: ToWorker): void {
    if (message.t === 'init') void this.#start(message).catch((error) => this.#fail(describe(error)));
    else if ('kind' in message && message.kind === 'host') void this.#tool(message);
    else this.#feed(message);
    if (message.t === 'close') this.#end();
  }

  /** Tells the core something, on a way into it. */
  #feed(input: CoreInput): void {
    if (!this.#core) return;
    this.#recording?.add(this.#now, input);
    perform(this.#core, input);
  }

  #input(input: CoreInput): void {
    this.#enter(() => this.#feed(input));
  }

  async #start({ v, options, wasm, wasmUrl }: ToWorker & { t: 'init' }): Promise<void> {
    if (v !== PROTOCOL_VERSION) {
      throw new Error(`the page speaks version ${v} of the worker protocol, the worker script ${PROTOCOL_VERSION}`);
    }
    if (!this.#socket) {
      throw new Error("no WebSocket here: set globalThis.WebSocket (before Node 22, to that of the package 'ws')");
    }
    const seed = crypto.getRandomValues(new Uint8Array(32));
    const glue = createGlue({ performance: { now: () => this.#now }, crypto: { getRandomValues: (bytes) => bytes.set(seed) } });
    await glue.init((this.#module ??= await compile(wasm, wasmUrl, this.#loading.signal)));
    if (this.#dead) return;
    if (options.record) this.#recording = new Recording(BUILD, options, seed);
    this.#core = new glue.Core(options, {
      open: (id: number, url: string, protocols: string) => this.#open(id, url, protocols),
      // A copy: what is sent later must not be read from memory that wasm has used again by then.
      send: (id: number, message: Uint8Array) => this.#send(id, message.slice()),
      shut: (id: number, code: number, reason: string) => this.#forget(id)?.close(code, reason),
      arm: (delay: number) => this.#arm(delay),
      text: (text: string) => this.#parts.push(text),
      bytes: (bytes: Uint8Array) => this.#parts.push(bytes.slice()),
      soon: (urgency: number) => this.#soon(urgency),
      panicked: (message: string) => this.#fail(message),
    });
    this.#say({ t: 'ready', build: BUILD });
  }

  #open(id: number, url: string, protocols: string): void {
    const unopened = (why: string) => queueMicrotask(() => this.#input({ t: 'closed', socket: id, code: 1006, reason: why, ours: false }));
    // The core is at work right here.
    if (this.#offline) return unopened(SIMULATED);
    let socket: WebSocket;
    try {
      socket = new this.#socket(url, protocols ? protocols.split(',') : []);
    } catch (error) {
      return unopened(describe(error));
    }
    this.#sockets.set(id, socket);
    let failure = '';
    socket.binaryType = 'arraybuffer';
    socket.onopen = () => this.#input({ t: 'opened', socket: id, protocol: socket.protocol });
    socket.onmessage = ({ data }) => {
      if (typeof data === 'string') {
        socket.close(4004, 'text message');
        this.#closed(id, 1003, 'text message');
      } else this.#delay(() => this.#sockets.has(id) && this.#input({ t: 'message', socket: id, bytes: new Uint8Array(data) }));
    };
    // Browsers say nothing; elsewhere there is a message.
    socket.onerror = (event) => (failure = (event as ErrorEvent).message ?? '');
    socket.onclose = ({ code, reason }) => {
      // A version 1 server may ignore the offer, which the package `ws` takes for an error.
      if (!/no subprotocol$/.test(failure)) return this.#delay(() => this.#closed(id, code, reason || failure));
      this.#forget(id);
      this.#open(id, url, '');
    };
  }

  #closed(id: number, code: number, reason: string): void {
    const socket = this.#forget(id) as RefusedSocket | undefined;
    if (!socket) return;
    const { status, ours = false, retryAfter } = socket.refusal ?? {};
    if (status) reason = `the server answered ${status}`;
    this.#input({ t: 'closed', socket: id, code: status || code, reason, ours, retryAfter });
  }

  #send(id: number, message: Uint8Array<ArrayBuffer>): void {
    const socket = this.#sockets.get(id);
    this.#delay(() => this.#sockets.get(id) === socket && socket?.send(message));
  }

  /** Does it at once or, while a latency is simulated, after half of it, in order. */
  #delay(action: () => void): void {
    const late = this.#late;
    if (!late?.length && !this.#latency) return action();
    late!.push(action);
    setTimeout(() => late!.shift()!(), this.#latency / 2);
  }

  #forget(id: number): WebSocket | undefined {
    const socket = this.#sockets.get(id);
    if (socket) {
      this.#sockets.delete(id);
      socket.onopen = socket.onmessage = socket.onclose = null;
      // A socket closed while it opens still reports that.
      socket.onerror = () => {};
    }
    return socket;
  }

  #arm(delay: number): void {
    clearTimeout(this.#timer);
    // Browsers take a longer delay for none. Woken too early, the core asks again.
    if (delay >= 0) this.#timer = setTimeout(() => this.#input({ t: 'timeout' }), Math.min(delay, 2 ** 31 - 1));
  }

  #soon(urgency: number): void {
    const flush = () => this.#enter(() => this.#flush());
    const wait = this.#flushed + this.#pause - performance.now();
    if (wait <= 0) this.#pause = COALESCE_MS;
    if (urgency > 2) this.#full = true;
    else if (urgency > 1 || wait <= 0) soon(flush);
    else {
      this.#pause = Math.min(2 * this.#pause, COALESCE_MAX_MS);
      this.#delayed = setTimeout(flush, wait);
    }
  }

  #flush(): void {
    this.#full = false;
    clearTimeout(this.#delayed);
    this.#feed({ t: 'take' });
    const parts = this.#parts;
    if (!parts.length) return;
    this.#parts = [];
    this.#flushed = performance.now();
    const transfer = parts.flatMap((part) => (typeof part === 'string' ? [] : [part.buffer as ArrayBuffer]));
    this.#post((parts.length > 1 ? parts : parts[0]) as Batch, transfer);
  }

  #enter(action: () => void): void {
    if (this.#dead) return;
    try {
      this.#now = performance.now();
      action();
      if (this.#full) this.#flush();
    } catch (error) {
      this.#fail(describe(error));
    }
  }

  /** For `datasole/devtools`. */
  async #tool(message: ToWorker & ToolsName): Promise<void> {
    // Whoever has made the network worse may be gone.
    if (message.t === 'leave') return this.#simulate({ offline: false, latency: 0 });
    if (message.t === 'simulate') this.#simulate(message);
    const asks = message.t === 'save' || message.t === 'replay';
    const data = asks ? await this.#session(message) : { network: { offline: this.#offline, latency: this.#latency } };
    this.#say({ t: 'entry', kind: 'host', key: 'tools', rev: 0, data });
  }

  async #session(message: Extract<ToolsCommand, { id: string }>): Promise<ToolsAnswer> {
    const { id } = message;
    try {
      return { id, text: message.t === 'save' ? this.#recording?.text() : await replay(this.#module!, message.text) };
    } catch (error) {
      return { id, error: describe(error) };
    }
  }

  #simulate({ drop, offline = this.#offline, latency = this.#latency }: { drop?: boolean; offline?: boolean; latency?: number }): void {
    this.#latency = latency;
    this.#late ??= [];
    if (drop || offline) {
      for (const [id, socket] of [...this.#sockets]) {
        this.#closed(id, 1006, SIMULATED);
        socket.close();
      }
    }
    const changed = offline !== this.#offline;
    this.#offline = offline;
    if (changed) this.#feed({ t: 'hint', kind: offline ? 'offline' : 'online' });
  }

  #fail(message: string): void {
    if (this.#dead) return;
    this.#end();
    this.#say({ t: 'fatal', message });
  }

  #end(): void {
    this.#dead = true;
    this.#loading.abort();
    clearTimeout(this.#timer);
    clearTimeout(this.#delayed);
    for (const id of [...this.#sockets.keys()]) this.#forget(id)?.close();
  }

  #say(message: FromWorker): void {
    this.#post(JSON.stringify([message]), []);
  }
}

/** Runs after the events that are due already, so that messages that arrive together leave together. */
const soon: (action: () => void) => void = (() => {
  if (typeof setImmediate === 'function') return setImmediate;
  const actions: (() => void)[] = [];
  const channel = new MessageChannel();
  channel.port1.onmessage = () => actions.shift()?.();
  return (action) => {
    actions.push(action);
    channel.port2.postMessage(0);
  };
})();

async function compile(bytes: BufferSource | undefined, url: string, signal: AbortSignal): Promise<WebAssembly.Module> {
  if (typeof INLINE_WASM === 'string') bytes = Uint8Array.from(atob(INLINE_WASM), (char) => char.charCodeAt(0));
  else if (!bytes) {
    const response = await fetch(url, { signal }).catch((error) => {
      throw new Error(`the wasm at ${url} could not be loaded: ${describe(error)}`);
    });
    if (!response.ok) throw new Error(`the wasm at ${url} could not be loaded: HTTP ${response.status}`);
    bytes = await response.arrayBuffer();
  }
  return WebAssembly.compile(bytes).catch((error) => {
    throw new Error(`the wasm at ${url} could not be compiled: ${describe(error)}`);
  });
}

function describe(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
