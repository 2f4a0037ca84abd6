/**
 * The host of the wasm core: owns its sockets and its timer, passes messages in and batches out.
 *
 * Runs in the worker, or on the thread that asked for it. Every way into wasm leads through {@link Engine.#enter}: a
 * panic ends in a trap, which is told to the other side as `fatal` and never escapes into a socket's event loop.
 */
import { createGlue, type Core } from '../generated/glue.js';
import type { Port } from './port.js';
import { PROTOCOL_VERSION, type Batch, type FromWorker, type ToWorker } from './protocol.js';

/** Set by `npm/build.mjs`: what the package is, and in one build the wasm itself, in base64. */
declare const BUILD: string;
declare const INLINE_WASM: string | undefined;

/** Where a script that is asked to start no worker leaves {@link createEngine}. */
export const ENGINE_SLOT = Symbol.for('datasole.engine');

/**
 * The minimum time between batches of pushed messages: a flood wakes main 250 times a second, not a thousand. The first
 * message after a pause, and every awaited answer, leaves at once and takes the gathered messages along.
 */
const COALESCE_MS = 4;

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
  readonly #module?: WebAssembly.Module;
  readonly #sockets = new Map<number, WebSocket>();
  #core?: Core;
  #timer?: ReturnType<typeof setTimeout>;
  /** The batch being taken. */
  #parts: (string | Uint8Array)[] = [];
  /** The batch has waited long enough. */
  #full = false;
  /** When the last batch left. */
  #flushed = -Infinity;
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
    for (const message of messages) this.#enter((core) => this.#perform(core, message));
  }

  end(): void {
    this.post([{ t: 'close' }]);
  }

  #perform(core: Core | undefined, message: ToWorker): void {
    if (message.t === 'init') void this.#start(message).catch((error) => this.#fail(describe(error)));
    else if (core) perform(core, message);
    if (message.t === 'close') this.#end();
  }

  async #start({ v, options, wasm, wasmUrl }: ToWorker & { t: 'init' }): Promise<void> {
    if (v !== PROTOCOL_VERSION) {
      throw new Error(`the page speaks version ${v} of the worker protocol, the worker script ${PROTOCOL_VERSION}`);
    }
    if (!this.#socket) {
      throw new Error("no WebSocket here: set globalThis.WebSocket (before Node 22, to that of the package 'ws')");
    }
    const glue = createGlue();
    await glue.init(this.#module ?? (await compile(wasm, wasmUrl, this.#loading.signal)));
    if (this.#dead) return;
    this.#core = new glue.Core(options, {
      open: (id: number, url: string, protocols: string) => this.#open(id, url, protocols),
      // A copy: what is sent later must not be read from memory that wasm has used again by then.
      send: (id: number, message: Uint8Array) => this.#sockets.get(id)?.send(message.slice()),
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
    const closed = (code: number, reason: string) => {
      const socket = this.#forget(id) as RefusedSocket | undefined;
      const { status, ours = false, retryAfter } = socket?.refusal ?? {};
      if (status) reason = `the server answered ${status}`;
      if (socket) this.#enter((core) => core?.closed(id, status ?? code, reason, ours, retryAfter));
    };
    let socket: WebSocket;
    try {
      socket = new this.#socket(url, protocols ? protocols.split(',') : []);
    } catch (error) {
      // The core is at work right here.
      queueMicrotask(() => this.#enter((core) => core?.closed(id, 1006, describe(error), false)));
      return;
    }
    this.#sockets.set(id, socket);
    let failure = '';
    socket.binaryType = 'arraybuffer';
    socket.onopen = () => this.#enter((core) => core?.opened(id, socket.protocol));
    socket.onmessage = ({ data }) => {
      if (typeof data !== 'string') return this.#enter((core) => core?.message(id, new Uint8Array(data)));
      socket.close(4004, 'text message');
      closed(1003, 'text message');
    };
    // Browsers say nothing; elsewhere there is a message.
    socket.onerror = (event) => (failure = (event as ErrorEvent).message ?? '');
    socket.onclose = ({ code, reason }) => {
      // A version 1 server may ignore the offer, which the package `ws` takes for an error.
      if (!/no subprotocol$/.test(failure)) return closed(code, reason || failure);
      this.#forget(id);
      this.#open(id, url, '');
    };
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
    if (delay >= 0) this.#timer = setTimeout(() => this.#enter((core) => core?.timeout()), Math.min(delay, 2 ** 31 - 1));
  }

  #soon(urgency: number): void {
    const flush = () => this.#enter((core) => core && this.#flush(core));
    const wait = this.#flushed + COALESCE_MS - performance.now();
    if (urgency > 2) this.#full = true;
    else if (urgency > 1 || wait <= 0) soon(flush);
    else this.#delayed = setTimeout(flush, wait);
  }

  #flush(core: Core): void {
    this.#full = false;
    clearTimeout(this.#delayed);
    core.take();
    const parts = this.#parts;
    if (!parts.length) return;
    this.#parts = [];
    this.#flushed = performance.now();
    const transfer = parts.flatMap((part) => (typeof part === 'string' ? [] : [part.buffer as ArrayBuffer]));
    this.#post((parts.length > 1 ? parts : parts[0]) as Batch, transfer);
  }

  #enter(action: (core: Core | undefined) => void): void {
    if (this.#dead) return;
    try {
      action(this.#core);
      if (this.#full && this.#core) this.#flush(this.#core);
    } catch (error) {
      this.#fail(describe(error));
    }
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

/** Hands a message to a core that runs. */
export function perform(core: Core, message: ToWorker): void {
  switch (message.t) {
    case 'connect':
      return core.connect();
    case 'close':
      return core.close();
    case 'call':
      return core.call(message.id, message.method, message.json, message.bytes, message.timeout, message.queue);
    case 'cancel':
      return core.cancel(message.id);
    case 'emit':
      return core.emit(message.event, message.json, message.bytes, message.queue);
    case 'subscribe':
      return core.follow(message.id, message.kind, message.key, message.since?.epoch, message.since?.seq);
    case 'unsubscribe':
      return core.unfollow(message.id, message.linger);
    case 'resync':
      return core.resync(message.key, message.applied);
    case 'open':
      return core.stream(message.t, message.kind, message.key, message.throttle);
    case 'leave':
      return core.stream(message.t, message.kind, message.key);
    case 'edit':
      return core.stream(message.t, message.kind, message.key, message.id, message.json, message.bytes);
    case 'show':
      return core.stream(message.t, message.kind, message.key, +message.now, message.json);
    case 'aware':
    case 'answer':
      return core.stream(message.t, message.kind, message.key, undefined, undefined, message.bytes);
    case 'unfit':
      return core.stream(message.t, message.kind, message.key, +message.applied);
    case 'hint':
      return core.hint(message.kind);
    case 'token':
      return core.token(message.token, message.error);
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
