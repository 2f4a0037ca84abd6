/** Channels: what CRDTs, presence and documents stand on. A channel follows one stream and writes to it. */
import { guarded, type DatasoleError } from './errors.js';

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
  /** The server refused: nothing will be heard on this channel; open another to try again. */
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
  kind: ChannelKind;
  key: string;
  /** The subscription. */
  id: number;
  handlers: Set<ChannelHandlers>;
}

/** How channels follow streams. @internal */
export interface Following {
  /** Returns the subscription's id. */
  subscribe(kind: ChannelKind, key: string): number;
  unsubscribe(id: number): void;
  /** Asks for an answer and a whole entry once more. */
  resync(kind: ChannelKind, key: string): void;
}

/** The streams that channels lead to. @internal */
export class Channels {
  readonly #streams = new Map<string, Stream>();
  readonly #following: Following;

  constructor(following: Following) {
    this.#following = following;
  }

  /** Returns what closes it. */
  open(kind: ChannelKind, key: string, handlers: ChannelHandlers): () => void {
    const name = `${kind} ${key}`;
    let stream = this.#streams.get(name);
    if (stream) this.#following.resync(kind, key);
    else {
      stream = { kind, key, id: this.#following.subscribe(kind, key), handlers: new Set() };
      this.#streams.set(name, stream);
    }
    const followed = stream;
    followed.handlers.add(handlers);
    return () => {
      followed.handlers.delete(handlers);
      if (!followed.handlers.size && this.#streams.get(name) === followed) {
        this.#streams.delete(name);
        this.#following.unsubscribe(followed.id);
      }
    };
  }

  /** Tells everybody on a stream. */
  tell(kind: string, key: string, what: (handlers: ChannelHandlers) => void): void {
    const handlers = this.#streams.get(`${kind} ${key}`)?.handlers;
    for (const one of [...(handlers ?? [])]) if (handlers!.has(one)) guarded(() => what(one));
  }

  /** The server refused a stream; whether it was one of these. */
  refuse(kind: string, key: string, error: DatasoleError): boolean {
    this.tell(kind, key, (handlers) => handlers.refused(error));
    return this.#streams.delete(`${kind} ${key}`);
  }

  /** A core that knows nothing yet takes over. */
  renew(): void {
    for (const stream of this.#streams.values()) stream.id = this.#following.subscribe(stream.kind, stream.key);
  }
}
