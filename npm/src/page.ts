/** A page that shares a worker, as its hub sees it, and the streams that pages follow. */
import type { CreateEngine, Engine } from './engine.js';
import type { Patched } from './patch.js';
import { unpack, type Batch, type FromWorker, type Since, type ToWorker } from './protocol.js';

export type From<T extends FromWorker['t']> = FromWorker & { t: T };
export type To<T extends ToWorker['t']> = ToWorker & { t: T };

/** The hub's end of a page's port. */
export interface PagePort {
  postMessage(message: unknown): void;
  close(): void;
}

/** The value of a state, as all pages have it. */
interface Mirror extends Patched {
  rev: number;
  value: unknown;
}

/** A follower of a stream: its subscriptions, and when it is gone after the last of them. */
interface Follower {
  ids: Set<number>;
  timer?: ReturnType<typeof setTimeout>;
}

/** A stream that pages follow, or have open. */
export interface Followed {
  kind: string;
  key: string;
  /** The engine's subscription, of states and topics. */
  id: number;
  pages: Map<Page, Follower>;
  mirror?: Mirror;
  /** The subscription of a state or topic was answered. */
  answered?: boolean;
  /** The position of a state that it was asked for from: the first page has the value. */
  since?: Since;
  /** The mirror is current on this connection. */
  fresh?: boolean;
  /** The whole value is on its way: a page had lost step, or came later. */
  asked?: boolean;
  /** The last progress of an open stream. */
  progress?: From<'progress'>;
  /** The values of the pages in a room; the last one is shown. */
  shown: Map<Page, string>;
}

/** The messages of an engine's batch. */
export function read(batch: Batch): [FromWorker[], Uint8Array[]] {
  const [text, ...binaries] = Array.isArray(batch) ? batch : [batch];
  return [unpack(text), binaries];
}

/** A page that shares the engine. */
export class Page {
  /** Its calls, and the streams of its subscriptions, by its own ids. */
  readonly calls = new Map<number, number>();
  readonly following = new Map<number, Followed>();
  /** The engine of its documents. */
  documents?: Documents;
  #texts: string[] = [];
  #binaries: Uint8Array[] = [];

  constructor(readonly port: PagePort) {}

  /** A message that is posted with the next {@link flush}. */
  tell(message: FromWorker, binaries: Uint8Array[] = [], text?: string): void {
    if ('bin' in message) message = { ...message, bin: this.#binaries.push(binaries[message.bin!]!) - 1 };
    else if (text) return void this.#texts.push(text);
    this.#texts.push(JSON.stringify(message));
  }

  flush(): void {
    if (!this.#texts.length) return;
    const text = `[${this.#texts}]`;
    this.port.postMessage(this.#binaries.length ? [text, ...this.#binaries] : text);
    [this.#texts, this.#binaries] = [[], []];
  }

  /** A message of the handshake, or the last one. */
  alone(message: FromWorker): void {
    this.flush();
    this.tell(message);
    this.flush();
  }
}

/** The engine of a page's documents. */
export class Documents {
  readonly engine: Engine;
  /** What waits for the engine. */
  #waiting?: ToWorker[] = [{ t: 'connect' }];

  constructor(make: CreateEngine, init: To<'init'>, page: Page, asks: (engine: Engine) => void) {
    this.engine = make((batch) => {
      const [messages, binaries] = read(batch);
      const told = messages.filter(({ t }) => {
        if (t === 'ready') {
          this.engine.post(this.#waiting!);
          this.#waiting = undefined;
        } else if (t === 'token') asks(this.engine);
        else if (t === 'fatal') page.alone(messages[0]!);
        return ['entry', 'progress', 'rejected', 'ask', 'awareness'].includes(t);
      });
      if (told.length) page.port.postMessage([JSON.stringify(told), ...binaries]);
    });
    // No part of the session that all share.
    this.engine.post([{ ...init, options: { ...init.options, record: false } }]);
  }

  post(message: ToWorker): void {
    if (this.#waiting) this.#waiting.push(message);
    else this.engine.post([message]);
  }
}
