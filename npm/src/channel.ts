/** Channels: what CRDTs, presence and documents stand on. A channel follows one stream and writes to it. */
import type { DatasoleError } from './errors.js';
import { call, listen } from './handlers.js';
import type { StreamKind } from './protocol.js';

/** What a {@link Channel} may lead to. */
export type ChannelKind = 'crdt' | 'doc' | 'presence';

/** What a channel is told, in the order of the stream. */
export interface ChannelHandlers {
  /**
   * The server answered, on this connection. `recovered`: every entry since the last one follows, nothing was missed.
   * Else a CRDT or room begins anew with an entry that is `whole`, and a document with nothing. What was submitted and
   * not answered is to be submitted again: without `recovered` after that whole entry. Comes for all channels of a stream
   * when another one is opened.
   */
  subscribed(recovered: boolean): void;
  /**
   * A CRDT's operation or, `whole`, its state; a room's members; a `Uint8Array` with a document's message. Consecutive:
   * duplicates are hidden and gaps repaired.
   */
  entry(data: unknown, whole: boolean): void;
  /** The server refused: nothing is heard until another channel of the stream is opened, or there is a new connection. */
  refused(error: DatasoleError): void;
}

/** See {@link DatasoleClient.openChannel}. */
export interface Channel {
  /**
   * Sends an operation (any JSON), a presence value (any JSON; `undefined` leaves) or a document's message (a
   * `Uint8Array`). Never queued.
   *
   * @returns Resolves when the server has it.
   * @throws DatasoleError: not connected, refused, lost or late. The last two may have been carried out.
   */
  submit(data?: unknown): Promise<void>;
  /** Sends a document's message that nobody answers, where there is a connection. */
  notify(data: Uint8Array): void;
  /** Nothing is heard any more. The last channel of a stream ends it on the server as well. */
  close(): void;
}

interface Stream {
  kind: StreamKind;
  key: string;
  /** The subscription; 0 once it was refused. */
  id: number;
  handlers: Set<(tell: Tell) => void>;
}

type Tell = (handlers: ChannelHandlers) => void;

/** The streams that channels lead to. @internal */
export class Channels {
  readonly #streams = new Map<string, Stream>();
  readonly #subscribe: (kind: StreamKind, key: string) => number;
  readonly #unsubscribe: (id: number) => void;

  constructor(subscribe: (kind: StreamKind, key: string) => number, unsubscribe: (id: number) => void) {
    this.#subscribe = subscribe;
    this.#unsubscribe = unsubscribe;
  }

  /** Returns what closes it. */
  open(kind: StreamKind, key: string, handlers: ChannelHandlers): () => void {
    const name = `${kind} ${key}`;
    let stream = this.#streams.get(name);
    if (stream) this.#unsubscribe(stream.id);
    else this.#streams.set(name, (stream = { kind, key, id: 0, handlers: new Set() }));
    // Again, so that the new one begins as the first did.
    stream.id = this.#subscribe(kind, key);
    const followed = stream;
    const stop = listen(followed.handlers, (tell: Tell) => tell(handlers));
    return () => {
      if (stop() && !followed.handlers.size) {
        this.#streams.delete(name);
        this.#unsubscribe(followed.id);
      }
    };
  }

  /** Tells everybody on a stream; whether there was one. */
  tell(kind: string, key: string, tell: Tell): boolean {
    const stream = this.#streams.get(`${kind} ${key}`);
    if (stream) call(stream.handlers, tell);
    return !!stream;
  }

  /** {@link tell}s that a stream was refused. */
  refuse(kind: string, key: string, error: DatasoleError): boolean {
    const stream = this.#streams.get(`${kind} ${key}`);
    if (stream) stream.id = 0;
    return this.tell(kind, key, (handlers) => handlers.refused(error));
  }

  /** A core that knows nothing yet takes over; or, with a new connection, what was `refused` is asked for again. */
  renew(refused = false): void {
    for (const stream of this.#streams.values()) {
      if (!refused || !stream.id) stream.id = this.#subscribe(stream.kind, stream.key);
    }
  }
}
