/** The CRDTs of a client, each with the operations that its server has not confirmed. */
import { call, guarded, listen } from '../handlers.js';
import { GCounter, PNCounter } from './counter.js';
import type { Crdt, CrdtOperation, CrdtState, CrdtType } from './crdt.js';
import { must, toObject } from './json.js';
import { LWWMap, LWWRegister } from './lww.js';
import { Replica, type ReplicaHost } from './replica.js';
import { GSet, ORSet } from './set.js';

/** An operation and the CRDT that it changes. */
export interface KeyedOperation {
  key: string;
  op: CrdtOperation;
}

/** The classes by type. */
export interface CrdtClasses<T = any> {
  'g-counter': GCounter;
  'pn-counter': PNCounter;
  'lww-register': LWWRegister<T>;
  'lww-map': LWWMap<T>;
  'g-set': GSet<T>;
  'or-set': ORSet<T>;
}

/** The CRDTs of a client, by key. They send and receive by themselves, now or when there is a connection. */
export class CrdtStore {
  readonly #host: ReplicaHost;
  readonly #nodeId: string;
  readonly #replicas = new Map<string, Replica>();
  readonly #opsHandlers = new Set<(operation: KeyedOperation) => void>();
  readonly #pendingHandlers = new Set<(pending: number) => void>();

  /** @internal */
  constructor(host: ReplicaHost, name: string) {
    this.#host = host;
    // Never used again: operations of an earlier page must not look like repeats of this one's.
    const random = crypto.getRandomValues(new Uint32Array(3));
    this.#nodeId = `${name}.${Array.from(random, (part) => part.toString(36)).join('')}`;
  }

  /**
   * The CRDT of a key: the same object whenever it is asked for. `initial` is what a register shows until it is
   * written.
   *
   * @throws TypeError when the key has another type here.
   */
  register<K extends CrdtType, T = any>(key: string, type: K, initial?: T): CrdtClasses<T>[K] {
    let replica = this.#replicas.get(key);
    if (!replica) {
      must(Object.hasOwn(CLASSES, type), `type: ${type}`);
      const tell = (op?: CrdtOperation) =>
        op ? call(this.#opsHandlers, { key, op }) : call(this.#pendingHandlers, this.pending);
      replica = new Replica(key, () => new CLASSES[type](this.#nodeId, initial), this.#host, tell);
      this.#replicas.set(key, replica);
    }
    must(replica.crdt.type === type, `type for ${key}: it is a ${replica.crdt.type}`);
    return replica.crdt as CrdtClasses<T>[K];
  }

  /** The CRDT of a key that was registered. */
  get(key: string): Crdt | undefined {
    return this.#replicas.get(key)?.crdt;
  }

  /** The number of pending operations: not confirmed by the server yet. */
  get pending(): number {
    return [...this.#replicas.values()].reduce((sum, { pending }) => sum + pending, 0);
  }

  /** Calls `handler` at once with {@link pending}, then when it changes. Returns a function that ends it. */
  onPending(handler: (pending: number) => void): () => void {
    const end = listen(this.#pendingHandlers, handler);
    guarded(() => handler(this.pending));
    return end;
  }

  /** Calls `handler` with every operation that is made here. Returns a function that ends it. */
  onOps(handler: (operation: KeyedOperation) => void): () => void {
    return listen(this.#opsHandlers, handler);
  }

  /** Does nothing: operations are sent when they are made. */
  queueOperation(_operation?: unknown): void {}

  /** The operations that the server has not confirmed. They stay, and are sent all the same. */
  drainPendingOps(): KeyedOperation[] {
    return [...this.#replicas].flatMap(([key, { operations }]) => operations.map((op) => ({ key, op })));
  }

  /** {@link Crdt.apply} on the CRDT of a key. */
  applyRemote(key: string, operation: CrdtOperation): boolean {
    return !!this.get(key)?.apply(operation);
  }

  /** {@link Crdt.merge} on the CRDT of a key. */
  mergeRemoteState(key: string, state: CrdtState): boolean {
    return !!this.get(key)?.merge(state);
  }

  /** All states by key. */
  snapshot(): Record<string, CrdtState> {
    return toObject(this.#replicas, ({ crdt }) => crdt.state());
  }
}

/** The CRDTs of a client by key: always the same object for a key. See `client.crdt`. */
export type Crdts = ReturnType<typeof byKey>;

/** The store, in short. */
export const byKey = (store: CrdtStore) => ({
  /** A number that everybody may change. */
  counter: (key: string) => store.register(key, 'pn-counter'),
  /** Values by name. */
  map: <T = any>(key: string) => store.register<'lww-map', T>(key, 'lww-map'),
  /** A set of values. */
  set: <T = any>(key: string) => store.register<'or-set', T>(key, 'or-set'),
  /** A register: one value; `initial` is shown until it is written. */
  register: <T = any>(key: string, initial?: T) => store.register<'lww-register', T>(key, 'lww-register', initial),
  /** The number of pending operations: not confirmed by the server yet. */
  get pending() {
    return store.pending;
  },
  /** Calls `handler` at once with `pending`, then when it changes. Returns a function that ends it. */
  onPending: (handler: (pending: number) => void) => store.onPending(handler),
});

const CLASSES = {
  'g-counter': GCounter,
  'pn-counter': PNCounter,
  'lww-register': LWWRegister,
  'lww-map': LWWMap,
  'g-set': GSet,
  'or-set': ORSet,
};
