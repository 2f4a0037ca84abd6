/** A CRDT of a client: the server's state and, on top, the own operations that are not in it yet. */
import { canonical } from '../canonical.js';
import { report } from '../errors.js';
import { guarded, once } from '../handlers.js';
import type { CrdtStorage } from '../options.js';
import type { StreamMessage } from '../protocol.js';
import type { Port, Stream, Streams } from '../streams.js';
import type { Crdt, CrdtOperation, CrdtState, Dot, Outbox } from './crdt.js';

/** The client, as its replicas see it. */
export interface ReplicaHost {
  streams: Streams;
  /** The server's clock as far as it is known; Unix milliseconds. */
  now(): number;
  storage?: CrdtStorage;
}

/** The surroundings of a replica; `secret` shows the server that operations are this client's, `tell` that `pending` may have changed. */
type Around = ReplicaHost & { key: string; secret: string; tell(): void };

/** An operation as it is sent and saved. */
type Signed = CrdtOperation & { secret?: string };

/** An operation that is not in the confirmed state; `stored`: the server has acknowledged it. */
type Own = { edit: number; operation: Signed; stored?: boolean };

/** See the module. */
export class Replica implements Outbox, Stream {
  readonly crdt: Crdt;
  readonly port: Port;
  readonly now: () => number;
  pending = 0;
  /** In the hands of the application, and not of components alone: never left. */
  held = false;
  readonly #host: Around;
  readonly #confirmed: Crdt;
  /** By the operations' ids as text, in the order of the edits. */
  readonly #own = new Map<string, Own>();
  #edits = 0;
  /** What was saved before is here. */
  #loaded = false;
  /** Saves, and tells. */
  readonly #changed = once(() => {
    const rest = Array.from(this.#own.values(), ({ operation }) => operation);
    const { key, storage, tell } = this.#host;
    if (this.#loaded) guarded(() => storage?.save(key, rest.length ? JSON.stringify(rest) : undefined));
    tell();
  });

  constructor(make: () => Crdt, host: Around) {
    this.#host = host;
    this.now = host.now;
    this.crdt = make();
    this.crdt.outbox = this;
    this.#confirmed = make();
    this.port = host.streams.open({ kind: 'crdt', key: host.key }, this);
    void this.#restore();
  }

  done({ nodeId, counter }: Pick<CrdtOperation, 'nodeId' | 'counter'>): number | undefined {
    for (const { operation, stored } of this.#own.values()) {
      if (!stored && operation.nodeId === nodeId) return operation.counter - 1 || undefined;
    }
    return counter - 1 || undefined;
  }

  add(operation: Signed): void {
    const own = { edit: ++this.#edits, operation: { secret: this.#host.secret, ...operation } };
    this.#own.set(id(operation), own);
    this.pending++;
    // A stream that was left may be over.
    this.port.follow(true);
    this.#send(own);
    this.#changed();
  }

  renew(): void {
    for (const own of this.#own.values()) this.#send(own);
  }

  hold(): void {
    this.held = true;
    this.port.follow(true);
  }

  entry({ data, whole }: StreamMessage & { t: 'entry' }): boolean {
    const fits = whole ? this.#confirmed.replace(data as CrdtState | null) : this.#confirmed.apply(data as CrdtOperation);
    if (fits && (whole || !this.#arrived(data as CrdtOperation))) this.#rebuild();
    return fits || (!whole && !!data && this.#confirmed.knows(data as CrdtOperation));
  }

  /** Shows an operation, too, that has been confirmed; whether that was all there is to do. */
  #arrived(operation: CrdtOperation): boolean {
    const [crdt, confirmed] = [this.crdt.content, this.#confirmed.content];
    const { nodeId, dots = [], done = 0 } = operation;
    const own = this.#own.get(id(operation));
    const shown = this.crdt.knows(operation) && crdt.seen.get(nodeId)!.upto >= done;
    if (own) this.#forget(own);
    // The server may have set a clock right. What is shown of a forgotten replica depends on when it is applied. The
    // `none` in place of something refused: it may have been shown as done.
    const same = own
      ? shown && !(confirmed.floor && dots.length) && alike(own.operation, operation)
      : nodeId !== this.crdt.nodeId && this.crdt.apply(operation);
    // An addition that was put off is done when its removal comes; what was refused has never been there: `done` skips
    // it.
    const skipped = !this.#own.size && crdt.forgotten !== confirmed.forgotten;
    return same && !skipped && !dots.some((dot) => this.#own.has(String(dot)));
  }

  settled({ id: edit, returns, error }: StreamMessage & { t: 'settled' }): void {
    for (const own of this.#own.values()) {
      if (own.edit !== edit) continue;
      if (!returns) this.#forget(own);
      else if (!own.stored) this.pending--;
      own.stored = true;
      if (error) this.#rebuild();
      else if (!returns) this.#confirmed.apply(own.operation);
      return this.#changed();
    }
  }

  /** Shows the confirmed state, with the pending operations on top. */
  #rebuild(): void {
    this.crdt.copy(this.#confirmed);
    for (const own of this.#own.values()) {
      if (this.#confirmed.knows(own.operation)) this.#forget(own);
      else this.crdt.apply(own.operation);
    }
  }

  #send(own: Own): void {
    this.port.send({ t: 'edit', id: own.edit, json: JSON.stringify(own.operation) });
  }

  #forget({ operation, stored }: Own): void {
    this.#own.delete(id(operation));
    this.pending -= +!stored;
    this.#changed();
  }

  async #restore(): Promise<void> {
    const { key, storage } = this.#host;
    try {
      const saved: Signed[] = JSON.parse((await storage?.load(key)) || '[]');
      // One that does not fit here is the server's to refuse.
      for (const operation of saved) if (this.crdt.apply(operation) || !this.crdt.knows(operation)) this.add(operation);
    } catch (error) {
      report(error);
    }
    this.#loaded = true;
    if (this.#own.size) this.#changed();
  }
}

/** The same text as of a {@link Dot}. */
function id({ nodeId, counter }: CrdtOperation): string {
  return `${nodeId},${counter}`;
}

/** True if two operations do the same; `done` is written when they are sent, and only the author has the secret. */
function alike(a: Signed, b: Signed): boolean {
  const same = { done: 0, secret: 0 };
  return canonical({ ...a, ...same }) === canonical({ ...b, ...same });
}
