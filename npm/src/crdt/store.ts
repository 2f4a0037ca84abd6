/** The CRDTs of a client, each with the operations that its server has not confirmed. */
import { call, listen, show } from '../handlers.js';
import { GCounter, PNCounter } from './counter.js';
import type { Crdt, CrdtOperation, CrdtState, CrdtType } from './crdt.js';
import { must, toObject } from './json.js';
import { LWWMap, LWWRegister } from './lww.js';
import { Replica, type ReplicaHost } from './replica.js';
import { GSet, ORSet } from './set.js';

/** The classes by type. */
export interface CrdtClasses<T = any> {
  'g-counter': GCounter;
  'pn-counter': PNCounter;
  'lww-register': LWWRegister<T>;
  'lww-map': LWWMap<T>;
  'g-set': GSet<T>;
  'or-set': ORSet<T>;
}

/** CRDTs by key. A client's send and receive by themselves (not on version 1); those of `new CrdtStore(nodeId)` travel by hand. */
export class CrdtStore {
  /** Vue leaves it as it is. @internal */
  readonly __v_skip = true;
  /** The name of the replicas. A client's add something random. */
  readonly nodeId: string;
  readonly #host?: ReplicaHost & { secret: string };
  readonly #crdts = new Map<string, Crdt>();
  #queued: CrdtOperation[] = [];
  readonly #opsHandlers = new Set<(operations: CrdtOperation[]) => void>();
  readonly #pendingHandlers = new Set<(pending: number) => void>();

  /** Nobody else may ever have the same `nodeId`. */
  constructor(nodeId: string);
  /** @internal */
  constructor(nodeId: string, host?: ReplicaHost);
  constructor(nodeId: string, host?: ReplicaHost) {
    this.nodeId = nodeId;
    this.#host = host && { ...host, secret: random() };
  }

  /**
   * The CRDT of a key, always the same object; `initial` is what a register shows until it is written.
   *
   * @throws TypeError when the key has another type here.
   */
  register<K extends CrdtType, T = any>(key: string, type: K, initial?: T): CrdtClasses<T>[K] {
    const crdt = this.lend(key, type, initial);
    (crdt as Crdt).outbox?.hold();
    return crdt;
  }

  /** As {@link register}, for components: followed as long as some have it. @internal */
  lend<K extends CrdtType, T = any>(key: string, type: K, initial?: T): CrdtClasses<T>[K] {
    let crdt = this.#crdts.get(key);
    if (!crdt) {
      must(Object.hasOwn(CLASSES, type), `type: ${type}`);
      // Never used again: operations of an earlier page must not look like repeats. And not to be guessed from another key's.
      const nodeId = this.#host ? `${this.nodeId}.${random()}` : this.nodeId;
      const make = (): Crdt => new CLASSES[type](nodeId, initial);
      const tell = () => call(this.#pendingHandlers, this.pending);
      crdt = this.#host ? new Replica(make, { ...this.#host, key, tell }).crdt : make();
      this.#crdts.set(key, crdt);
    }
    must(crdt.type === type, `type for ${key}: it is a ${crdt.type}`);
    return crdt as CrdtClasses<T>[K];
  }

  /** The CRDT of a key that was registered. */
  get(key: string): Crdt | undefined {
    return this.#crdts.get(key);
  }

  /** The number of pending operations: not confirmed by the server yet. */
  get pending(): number {
    return [...this.#crdts.values()].reduce((sum, { pending }) => sum + pending, 0);
  }

  /** Calls `handler` at once with {@link pending}, then when it changes. Returns a function that ends it. */
  onPending(handler: (pending: number) => void): () => void {
    return show(this.#pendingHandlers, handler, this.pending);
  }

  /** Calls `handler` with what {@link queueOperation} is given. Returns a function that ends it. */
  onOps(handler: (operations: CrdtOperation[]) => void): () => void {
    return listen(this.#opsHandlers, handler);
  }

  /** Keeps an operation for {@link drainPendingOps}, for an application that carries operations itself. */
  queueOperation(operation: CrdtOperation): void {
    this.#queued.push(operation);
    call(this.#opsHandlers, [operation]);
  }

  /** Takes all operations that were queued. */
  drainPendingOps(): CrdtOperation[] {
    return this.#queued.splice(0);
  }

  /** {@link Crdt.apply} on the CRDT of a key. */
  applyRemote(key: string, operation: Parameters<Crdt['apply']>[0]): boolean {
    return !!this.get(key)?.apply(operation);
  }

  /** {@link Crdt.merge} on the CRDT of a key. */
  mergeRemoteState(key: string, state: CrdtState): boolean {
    return !!this.get(key)?.merge(state);
  }

  /** All states by key. */
  snapshot(): Record<string, CrdtState> {
    return toObject(this.#crdts, (crdt) => crdt.state());
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

/** 96 bits that nobody guesses. */
function random(): string {
  return Array.from(crypto.getRandomValues(new Uint32Array(3)), (part) => part.toString(36)).join('');
}
