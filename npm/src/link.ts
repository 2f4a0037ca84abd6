/**
 * One life of a core host: started, greeted, fed in order, ended. A link knows versions and loading, but not the
 * meaning of messages.
 */
import type { SocketConstructor } from './engine.js';
import { ErrorCode, localError, type DatasoleError } from './errors.js';
import { delay } from './lifecycle.js';
import { openThread, openWorker, type Port, type PortEvents } from './port.js';
import { PROTOCOL_VERSION, type Batch, type FromWorker, type ToWorker } from './protocol.js';
import type { CoreOptions } from '../generated/datasole_wasm.js';

declare const IIFE: boolean;

/** The options with which a host is started. */
export interface LinkOptions {
  core: CoreOptions;
  useWorker: boolean;
  worker?: () => Worker;
  /** Absolute where there is a page. */
  workerUrl: string;
  wasmUrl: string;
  socket?: SocketConstructor;
}

/** The events of a link. */
export interface LinkEvents {
  /** The messages of one batch, and the bytes they refer to. */
  receive(messages: FromWorker[], binaries: Uint8Array[]): void;
  /** The host is unusable; the link has ended. `passing`: it could not be loaded, which may be different later. */
  failed(error: DatasoleError, passing: boolean): void;
}

/** The most messages, and characters and bytes of them, that wait for a host. */
const MAX_WAITING = 2_048;
const MAX_WAITING_BYTES = 4 * 1024 * 1024;

const decoder = new TextDecoder();

/** See the module. */
export class Link {
  readonly #options: LinkOptions;
  readonly #events: LinkEvents;
  readonly #opening: Promise<Port>;
  readonly #wasm: Promise<ArrayBuffer | undefined>;
  #outbox: ToWorker[] = [];
  /** Set when the host is ready. */
  #port?: Port;
  #ended = false;
  readonly #loading = new AbortController();
  readonly #patience: ReturnType<typeof setTimeout>;
  #greeted = false;
  /** Characters and bytes of what waits for the host. */
  #bytes = 0;

  constructor(options: LinkOptions, events: LinkEvents) {
    this.#options = options;
    this.#events = events;
    // While the worker's script is on its way. Bytes, not a compiled module: the page's CSP may forbid to compile, and
    // trying would be reported as a violation. What fails here is tried again, and reported, by the host.
    this.#wasm = fetchWasm(options, this.#loading.signal).catch(() => undefined);
    this.#opening = this.#open();
    this.#opening.catch((error) => this.#fail(error instanceof Error ? error.message : String(error), true));
    const millis = options.core.connectTimeout!;
    this.#patience = setTimeout(
      () => this.#fail(`the worker script ${options.workerUrl} did not start within ${millis} ms`, true),
      delay(millis),
    );
  }

  /** True once messages reach the host. */
  get ready(): boolean {
    return !!this.#port;
  }

  /** True if no more calls and events may wait for the host. */
  get full(): boolean {
    return !this.#port && (this.#outbox.length >= MAX_WAITING || this.#bytes >= MAX_WAITING_BYTES);
  }

  /** Calls and events that the host was never told. */
  get untold(): ToWorker[] {
    return this.#outbox.filter(({ t }) => t === 'call' || t === 'cancel' || t === 'emit');
  }

  /** Sends in order, together with what else is sent in this turn. */
  send(message: ToWorker): void {
    if ('json' in message) this.#bytes += message.json?.length ?? 0;
    if ('bytes' in message) this.#bytes += message.bytes?.length ?? 0;
    if (this.#outbox.push(message) === 1 && this.#port) queueMicrotask(() => this.#flush());
  }

  /** Ends the host, after all messages sent before. */
  close(): void {
    this.#outbox.push({ t: 'close' });
    this.#flush();
    this.#end(true);
  }

  async #open(): Promise<Port> {
    const options = this.#options;
    const events = {
      batch: (batch: Batch) => this.#receive(batch),
      failed: (message: string) => this.#fail(message, !this.#greeted),
    };
    return options.useWorker
      ? this.#openWorker(options, events)
      : openThread(options.workerUrl, options.socket, events);
  }

  /** Where no worker can be made, as in some sandboxed frames, the core runs on this thread. */
  async #openWorker(options: LinkOptions, events: PortEvents): Promise<Port> {
    try {
      return openWorker(options.workerUrl, options.worker, events);
    } catch (error) {
      if (options.worker) throw error;
      return openThread(options.workerUrl, options.socket, events);
    }
  }

  #flush(): void {
    if (!this.#port || !this.#outbox.length) return;
    const messages = this.#outbox;
    this.#outbox = [];
    this.#bytes = 0;
    const transfer = messages.flatMap((message) =>
      'bytes' in message && message.bytes ? [message.bytes.buffer as ArrayBuffer] : [],
    );
    this.#port.post(messages, transfer);
  }

  #receive(batch: Batch): void {
    if (this.#ended) return;
    const [text, ...binaries] = Array.isArray(batch) ? batch : [batch];
    const messages = JSON.parse(typeof text === 'string' ? text : decoder.decode(text)) as FromWorker[];
    // The handshake's messages, and only they, come alone.
    const first = messages[0];
    switch (first?.t) {
      case 'here':
        return this.#greet(first.v);
      case 'ready':
        void this.#opening.then((port) => {
          if (this.#ended) return;
          clearTimeout(this.#patience);
          this.#port = port;
          this.#flush();
        });
        return;
      case 'fatal':
        return this.#fail(first.message, /could not be loaded/.test(first.message));
      default:
        this.#events.receive(messages, binaries);
    }
  }

  #greet(v: number): void {
    this.#greeted = true;
    if (v !== PROTOCOL_VERSION) {
      return this.#fail(`the page speaks version ${PROTOCOL_VERSION} of the worker protocol, the worker script ${v}`, false);
    }
    void Promise.all([this.#opening, this.#wasm]).then(([port, wasm]) => {
      if (this.#ended) return;
      const { core: options, wasmUrl } = this.#options;
      port.post([{ t: 'init', v, options, wasmUrl, wasm }], wasm ? [wasm] : []);
    });
  }

  #fail(message: string, passing: boolean): void {
    if (this.#ended) return;
    this.#end(false);
    this.#events.failed(localError(ErrorCode.Host, message), passing);
  }

  #end(gently: boolean): void {
    this.#ended = true;
    this.#loading.abort();
    clearTimeout(this.#patience);
    const ready = !!this.#port;
    this.#opening.then(
      (port) => port.end(gently && ready),
      () => {},
    );
  }
}

/** The wasm's bytes; none for a worker script that has it inside. */
async function fetchWasm({ workerUrl, wasmUrl }: LinkOptions, signal: AbortSignal): Promise<ArrayBuffer | undefined> {
  if (workerUrl.includes('.inline.')) return;
  if (!IIFE && !/^https?:/.test(wasmUrl)) return readWasm(wasmUrl);
  const response = await fetch(wasmUrl, { signal });
  return response.ok ? response.arrayBuffer() : undefined;
}

/** From the file system of Node: `wasmUrl` is a path or file URL, or empty for the package's own. */
async function readWasm(wasmUrl: string): Promise<ArrayBuffer> {
  // Named so that bundlers for browsers neither resolve the module nor copy the file.
  const [module, own] = ['node:fs/promises', 'datasole.wasm'];
  const { readFile } = await import(/* webpackIgnore: true */ /* @vite-ignore */ module);
  const file = wasmUrl ? (wasmUrl.startsWith('file:') ? new URL(wasmUrl) : wasmUrl) : new URL(own!, import.meta.url);
  const bytes: Uint8Array = await readFile(file);
  return bytes.slice().buffer as ArrayBuffer;
}
