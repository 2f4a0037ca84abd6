/** A CRDT on its channel: what the server has and, on top, the own operations that are not in it yet. */
import type { Channel, ChannelHandlers } from '../channel.js';
import { refused, report, type DatasoleError } from '../errors.js';
import { guarded } from '../handlers.js';
import type { Crdt, CrdtOperation, CrdtState, Outbox } from './crdt.js';
import { canonical } from './json.js';

/**
 * Keeps operations that the server has not confirmed, so that they survive a reload: `sessionStorage`, say. Not shared by
 * tabs: each would overwrite what the others have left.
 */
export interface CrdtStorage {
  /** What was saved for a key. */
  load(key: string): string | null | undefined | Promise<string | null | undefined>;
  /** Saves it; `undefined`: there is nothing left. */
  save(key: string, text: string | undefined): void;
}

/** What replicas stand on. */
export interface ReplicaHost {
  open(key: string, handlers: ChannelHandlers): Channel;
  /** The server's clock as far as it is known; Unix milliseconds. */
  now(): number;
  /** Whether the server speaks version 1: it sends no state when asked, and nobody his own operations. */
  plain(): boolean;
  storage?: CrdtStorage;
}

/** What a replica tells its store. */
export interface ReplicaEvents {
  added(operation: CrdtOperation): void;
  changed(): void;
}

/** No more operations wait for answers at a time. */
const MAX_UNANSWERED = 64;

/** See the module. */
export class Replica implements Outbox {
  readonly crdt: Crdt;
  readonly #confirmed: Crdt;
  readonly #key: string;
  readonly #host: ReplicaHost;
  readonly #events: ReplicaEvents;
  /** By id: not acknowledged; of those, submitted on this connection; acknowledged, but not seen to arrive. */
  readonly #pending = new Map<string, CrdtOperation>();
  readonly #sent = new Set<string>();
  readonly #arriving = new Map<string, CrdtOperation>();
  readonly #channel: Channel;
  /** Own operations do not come back. */
  #deaf = false;
  #telling = false;

  /** Of `crdt` and `confirmed`, which are equal, the former is shown. */
  constructor(key: string, crdt: Crdt, confirmed: Crdt, host: ReplicaHost, events: ReplicaEvents) {
    this.#key = key;
    this.crdt = crdt;
    this.#confirmed = confirmed;
    this.#host = host;
    this.#events = events;
    crdt.outbox = this;
    this.#channel = host.open(key, {
      subscribed: (recovered) => this.#subscribed(recovered),
      entry: (data, whole) => (whole ? this.#replaced(data as CrdtState | null) : this.#arrived(data as CrdtOperation)),
      refused: (error) => {
        this.#deaf = true;
        report(error);
        // Who may not read may still write.
        this.#sent.clear();
        this.#flush();
      },
    });
    void this.#restore();
  }

  now(): number {
    return this.#host.now();
  }

  get pending(): number {
    return this.#pending.size;
  }

  get operations(): CrdtOperation[] {
    return [...this.#pending.values()];
  }

  done({ nodeId, counter }: Pick<CrdtOperation, 'nodeId' | 'counter'>): number | undefined {
    for (const operation of this.#pending.values()) {
      if (operation.nodeId === nodeId) return Math.min(operation.counter, counter) - 1 || undefined;
    }
    return counter - 1 || undefined;
  }

  add(operation: CrdtOperation): void {
    this.#pending.set(id(operation), operation);
    this.#flush();
    this.#changed();
    this.#events.added(operation);
  }

  #subscribed(recovered: boolean): void {
    this.#sent.clear();
    this.#deaf = this.#host.plain();
    // What the last connection acknowledged and never sent may not have been kept.
    const again = [...this.#arriving, ...this.#pending].sort(([, a], [, b]) => a.counter - b.counter);
    this.#arriving.clear();
    this.#pending.clear();
    for (const [id, operation] of again) this.#pending.set(id, operation);
    this.#changed();
    if (recovered || this.#deaf) this.#flush();
  }

  #replaced(state: CrdtState | null): void {
    if (this.#confirmed.replace(state)) this.#settle();
    else report(new TypeError(`${this.#key}: what the server has is no ${this.crdt.type}`));
    this.#flush();
    this.#changed();
  }

  /** Drops what has been confirmed. */
  #settle(): void {
    for (const own of [this.#pending, this.#arriving]) {
      for (const [id, operation] of own) if (this.#confirmed.knows(operation)) own.delete(id);
    }
    this.#rebuild();
  }

  #arrived(operation: CrdtOperation): void {
    if (!this.#confirmed.apply(operation)) return;
    const key = id(operation);
    const own = this.#pending.get(key) ?? this.#arriving.get(key);
    this.#arriving.delete(key);
    if (this.#pending.delete(key)) this.#changed();
    // An addition that was put off is done when its removal comes.
    const unconfirmed = (id: string) => this.#pending.has(id) || this.#arriving.has(id);
    if (operation.dots?.some(([nodeId, counter]) => unconfirmed(id({ nodeId, counter })))) this.#settle();
    // The server may have set a clock right.
    else if (own && canonical(own) !== canonical(operation)) this.#rebuild();
    else this.crdt.apply(operation);
  }

  /** Shows what the server has, and on top what it has not. */
  #rebuild(): void {
    this.crdt.copy(this.#confirmed);
    for (const operation of [...this.#arriving.values(), ...this.#pending.values()]) this.crdt.apply(operation);
  }

  #flush(): void {
    for (const [id, operation] of this.#pending) {
      if (this.#sent.size >= MAX_UNANSWERED) return;
      if (this.#sent.has(id)) continue;
      this.#sent.add(id);
      const again = () => {
        this.#sent.delete(id);
        this.#flush();
      };
      // More may have been acknowledged since it was made.
      const sent = { ...operation, done: this.done(operation) };
      this.#pending.set(id, sent);
      this.#channel.submit(sent).then(
        () => {
          this.#acknowledged(id);
          again();
        },
        (error: DatasoleError) => {
          // Lost with the connection, it waits in `#sent` for the next one.
          if (!refused(error, again)) return;
          report(error);
          this.#refused(id);
          again();
        },
      );
    }
  }

  #acknowledged(id: string): void {
    const operation = this.#pending.get(id);
    if (!operation) return;
    this.#pending.delete(id);
    if (this.#deaf) this.#confirmed.apply(operation);
    else if (this.#confirmed.knows(operation)) this.#rebuild();
    else this.#arriving.set(id, operation);
    this.#changed();
  }

  /** An operation that does nothing takes its place: the server waits for that number. */
  #refused(id: string): void {
    const operation = this.#pending.get(id);
    if (!operation) return;
    const { type, nodeId, counter, done, timestamp, logical, op } = operation;
    if (op === 'none') this.#pending.delete(id);
    else this.#pending.set(id, { type, nodeId, counter, done, timestamp, logical, op: 'none' });
    this.#rebuild();
    this.#changed();
  }

  async #restore(): Promise<void> {
    try {
      const text = await this.#host.storage?.load(this.#key);
      if (!text) return;
      for (const operation of JSON.parse(text) as CrdtOperation[]) {
        if (this.crdt.apply(operation)) this.#pending.set(id(operation), operation);
      }
      this.#flush();
      this.#changed();
    } catch (error) {
      report(error);
    }
  }

  /** Saves, and tells. */
  #changed(): void {
    if (this.#telling) return;
    this.#telling = true;
    queueMicrotask(() => {
      this.#telling = false;
      const rest = [...this.#arriving.values(), ...this.#pending.values()];
      guarded(() => this.#host.storage?.save(this.#key, rest.length ? JSON.stringify(rest) : undefined));
      this.#events.changed();
    });
  }
}

function id({ nodeId, counter }: Pick<CrdtOperation, 'nodeId' | 'counter'>): string {
  return `${nodeId},${counter}`;
}
