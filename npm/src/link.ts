/**
 * One life of a core host: started, greeted, fed in order, ended. A link knows versions and loading, but not the
 * meaning of messages.
 */
import { Code } from './codes.js';
import { localError, type DatasoleError } from './errors.js';
import { delay } from './lifecycle.js';
import { resolve, type DatasoleClientOptions } from './options.js';
import { loadEngine, openWorker, type Port, type PortEvents } from './port.js';
import { PROTOCOL_VERSION, unpack, type Batch, type Encoded, type FromWorker, type HostOptions, type ToWorker } from './protocol.js';
import type { Status } from './status.js';

declare const IIFE: boolean;

/** The options with which a host is started. */
export interface LinkOptions {
  core: HostOptions;
  useWorker: boolean;
  /** Pages with the same one, and the same `core`, share a worker. */
  shared?: boolean | string;
  worker?: () => Worker;
  /** Absolute where there is a page. */
  workerUrl: string;
  wasmUrl: string;
  /** Of the upgrade request, where there is no page. */
  headers?: Record<string, string>;
}

/** The events of a link. */
export interface LinkEvents {
  /** The messages of one batch, and the bytes they refer to. */
  receive(messages: FromWorker[], binaries: Uint8Array[]): void;
  /** The host could not be loaded, and will be loaded again. */
  retrying(status: Status): void;
  /** The host is unusable; the link has ended. */
  failed(error: DatasoleError): void;
}

/** The most messages, and characters and bytes of them, that wait for a host. */
const MAX_WAITING = 2_048;
const MAX_WAITING_BYTES = 4 * 1024 * 1024;

/** See the module. */
export class Link {
  #options: DatasoleClientOptions;
  readonly #events: LinkEvents;
  /** The host that is used; none between two attempts to load one, and after the end. */
  #opening?: Promise<Port>;
  #resolved!: LinkOptions;
  #wasm?: Promise<ArrayBuffer | undefined>;
  #loading?: AbortController;
  #outbox: ToWorker[] = [];
  /** Characters and bytes of what waits for the host. */
  #bytes = 0;
  /** Set when the host is ready. */
  #port?: Port;
  /** How often in a row the host could not be loaded. */
  #attempts = 0;
  /** Ends an attempt, or begins the next. */
  #timer?: ReturnType<typeof setTimeout>;

  constructor(options: DatasoleClientOptions, events: LinkEvents) {
    this.#options = options;
    this.#events = events;
    this.#begin();
  }

  /** True once messages reach the host. */
  get ready(): boolean {
    return !!this.#port;
  }

  /** True if no more calls and events may wait for the host. */
  get full(): boolean {
    return !this.#port && (this.#outbox.length >= MAX_WAITING || this.#bytes >= MAX_WAITING_BYTES);
  }

  /** Sends in order, together with what else is sent in this turn. */
  send(message: ToWorker): void {
    const { json, bytes } = message as Encoded;
    this.#bytes += (json ?? bytes ?? '').length;
    if (this.#outbox.push(message) === 1 && this.#port) queueMicrotask(() => this.#flush());
  }

  /** Ends the host, after all messages sent before. */
  close(): void {
    this.#outbox.push({ t: 'close' });
    this.#flush();
    this.#release(true);
  }

  /** An attempt to load the host; no other is made if a URL is invalid. */
  readonly #begin = () => {
    this.#load().catch((error) => this.#events.failed(localError(Code.Host, String(error))));
  };

  async #load(): Promise<void> {
    const options = (this.#resolved = resolve(this.#options, this.#attempts));
    const { workerUrl, core } = options;
    const loading = (this.#loading = new AbortController());
    // While the worker's script is on its way. Bytes, not a compiled module: the page's CSP may forbid to compile, and
    // trying would be reported as a violation. What fails here is tried again, and reported, by the host.
    this.#wasm = fetchWasm(options, loading.signal).catch(() => undefined);
    const opening = open(options, {
      batch: (batch: Batch) => this.#opening === opening && this.#receive(batch, opening),
      failed: (message: string) => this.#opening === opening && this.#fail(message, !this.#port),
    });
    this.#opening = opening;
    opening.catch((error) => {
      if (this.#opening === opening) this.#fail(String(error?.message ?? error), !options.worker);
    });
    const millis = core.connectTimeout!;
    this.#timer = setTimeout(
      () => this.#fail(`the worker script ${workerUrl} did not start within ${millis} ms`, true),
      delay(millis),
    );
  }

  #flush(): void {
    if (!this.#port || !this.#outbox.length) return;
    const messages = this.#outbox;
    this.#outbox = [];
    this.#bytes = 0;
    const transfer = messages.flatMap((message) => ((message as Encoded).bytes?.buffer as ArrayBuffer | undefined) ?? []);
    this.#port.post(messages, transfer);
  }

  #receive(batch: Batch, opening: Promise<Port>): void {
    const [text, ...binaries] = [batch].flat() as [string, ...Uint8Array[]];
    const messages = unpack(text);
    // The handshake's messages, and only they, come alone.
    const first = messages[0];
    switch (first?.t) {
      case 'here':
        return this.#greet(first.v, opening);
      case 'ready':
        void opening.then((port) => {
          if (this.#opening !== opening) return;
          clearTimeout(this.#timer);
          this.#port = port;
          this.#flush();
        });
        return;
      case 'fatal':
        return void this.#fail(first.message, /could not be loaded/.test(first.message));
      default:
        this.#events.receive(messages, binaries);
    }
  }

  #greet(v: number, opening: Promise<Port>): void {
    if (v !== PROTOCOL_VERSION) {
      return void this.#fail(`the page needs version ${PROTOCOL_VERSION} of the worker script, this is ${v}`, false);
    }
    void Promise.all([opening, this.#wasm]).then(([port, wasm]) => {
      if (this.#opening !== opening) return;
      const { core: options, wasmUrl } = this.#resolved;
      port.post([{ t: 'init', v, options, wasmUrl, wasm }], wasm ? [wasm] : []);
    });
  }

  /**
   * The host is of no use. `passing`: another attempt to load it may succeed. One for each URL is made in any case, and one with the
   * application's own, once it has come.
   */
  async #fail(message: string, passing: boolean): Promise<void> {
    const options = this.#options;
    const { url, reconnect = true, reconnectInterval = 1_000, maxReconnectAttempts = Infinity, fallback } = options;
    const loading = !this.#port;
    const own = !IIFE && loading && fallback;
    this.#release(false);
    let left =
      (loading && [url].flat().length > this.#attempts + 1) || ((passing || !!own) && reconnect && this.#attempts < maxReconnectAttempts);
    if (own) {
      const late = new Promise<void>((resolve) => (this.#timer = setTimeout(resolve, delay(this.#resolved.core.connectTimeout!))));
      const timer = this.#timer;
      const found = await Promise.race([Promise.resolve().then(own), late]).catch(() => {});
      // It may have ended.
      if (this.#timer !== timer) return;
      clearTimeout(timer);
      if (found) {
        this.#options = { ...options, ...found, fallback: undefined };
        left = true;
      }
    }
    if (!left) return this.#events.failed(localError(Code.Host, message));
    const retryInMs = Math.random() * Math.min(reconnectInterval * 2 ** this.#attempts++, 30_000);
    this.#timer = setTimeout(this.#begin, retryInMs);
    this.#events.retrying({ state: 'reconnecting', attempt: this.#attempts, retryInMs, reason: { kind: 'host', message } });
  }

  #release(gently: boolean): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#loading?.abort();
    const ready = !!this.#port;
    this.#opening?.then(
      (port) => port.end(gently && ready),
      () => {},
    );
    this.#opening = this.#port = undefined;
  }
}

/** Where no worker can be made, as in some sandboxed frames, the core runs on this thread. */
async function open(options: LinkOptions, events: PortEvents): Promise<Port> {
  const { useWorker, worker, workerUrl, headers, shared } = options;
  if (shared && useWorker) {
    const { openShared }: typeof import('./shared.js') = IIFE
      ? await import(/* webpackIgnore: true */ /* @vite-ignore */ new URL('datasole-shared.mjs', workerUrl).href)
      : await import('./shared.js');
    const port = await openShared(options, events);
    if (port) return port;
  }
  if (useWorker) {
    try {
      return openWorker(workerUrl, worker, events);
    } catch (error) {
      if (worker) throw error;
    }
  }
  const socket = !IIFE && headers ? (await import('./node.js')).nodeSocket(headers) : undefined;
  return (await loadEngine(workerUrl))((batch) => events.batch(batch), socket);
}

/** The wasm's bytes; none for a worker script that has it inside, and a shared one, which has it mostly. */
async function fetchWasm({ shared, workerUrl, wasmUrl }: LinkOptions, signal: AbortSignal): Promise<ArrayBuffer | undefined> {
  if (workerUrl.includes('.inline.')) return;
  if (!IIFE && !/^(https?|blob):/.test(wasmUrl)) return (await import('./node.js')).readWasm(wasmUrl);
  if (shared) return;
  const response = await fetch(wasmUrl, { signal });
  return response.ok ? response.arrayBuffer() : undefined;
}
