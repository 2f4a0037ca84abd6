/** CRDTs, as readables. */
import type { DatasoleClient } from './client.js';
import type { ContractShape } from './contract.js';
import type { Crdt, CrdtClasses, CrdtStore, CrdtType } from './crdt/index.js';
import type { Replica } from './crdt/replica.js';
import { perObject, type Readable } from './readable.js';
import { LINGER_MS } from './store.js';

/** A CRDT at a moment. */
export interface ReplicaState<V = any, D = Crdt<V>> {
  /** Its value: the same until it changes. */
  value: V;
  /** The CRDT itself, to change it. */
  crdt: D;
  /** The number of own operations that the server has not confirmed. */
  pending: number;
}

/** The keys of a contract's CRDTs: any, where the contract has none. */
export type CrdtName<C extends ContractShape> = C extends { crdt: infer D extends object } ? Extract<keyof D, string> : string;

type Spec<C extends ContractShape, K extends string> = C extends { crdt: infer D } ? (K extends keyof D ? D[K] : never) : any;

/** The type of a CRDT. */
export type CrdtKind<C extends ContractShape, K extends string> = 0 extends 1 & Spec<C, K>
  ? CrdtType
  : Spec<C, K> extends { type: infer T extends CrdtType }
    ? T
    : Extract<Spec<C, K>, CrdtType>;

/** The items of a CRDT: what a register, a map or a set holds. */
export type CrdtItem<C extends ContractShape, K extends string> = 0 extends 1 & Spec<C, K>
  ? any
  : Spec<C, K> extends { value: infer V }
    ? V
    : any;

const stateOf = perObject((crdt: Crdt, store: CrdtStore): Readable<ReplicaState> => {
  const outbox = crdt.outbox as Replica;
  let readers = 0;
  let leaving: ReturnType<typeof setTimeout> | undefined;
  const leave = () => {
    leaving ??= setTimeout(() => {
      leaving = undefined;
      if (!outbox.held) outbox.port.follow(false);
    }, LINGER_MS);
  };
  // A component that is rendered and never shown. On a server nothing is followed.
  if (typeof window !== 'undefined') leave();
  let [value, last]: [unknown, ReplicaState | undefined] = [undefined, undefined];
  // For good, and before any reader: a value is made once for each change.
  crdt.subscribe((now) => {
    value = now;
    // A change by a component that has gone follows it again.
    if (!readers && last) leave();
  });
  const getSnapshot = () => {
    const { pending } = crdt;
    return last && last.value === value && last.pending === pending ? last : (last = { value, crdt, pending });
  };
  return {
    subscribe: (changed) => {
      let before = getSnapshot();
      const check = () => before !== (before = getSnapshot()) && changed();
      const { unsubscribe } = crdt.subscribe(check);
      const end = store.onPending(check);
      clearTimeout(leaving);
      leaving = undefined;
      readers++;
      outbox.port.follow(true);
      let ended = false;
      return () => {
        if (ended) return;
        ended = true;
        unsubscribe();
        end();
        if (!--readers) leave();
      };
    },
    getSnapshot,
  };
});

/**
 * The CRDT of a key, its value and what is pending of it: one object, a new one after each change. Followed while somebody subscribes, and
 * 5 s longer; for good where the application has the CRDT of this key from `client.crdt`, too.
 *
 * @param initial - What a register shows until it is written.
 * @throws TypeError when the key has another type here.
 */
export function replica<T extends CrdtType, V = any>(
  client: DatasoleClient<any>,
  key: string,
  type: T,
  initial?: V,
): Readable<ReplicaState<ReturnType<CrdtClasses<V>[T]['value']>, CrdtClasses<V>[T]>> {
  const store = client.registerCrdt('web');
  return stateOf(store.lend(key, type, initial), store) as Readable<any>;
}
