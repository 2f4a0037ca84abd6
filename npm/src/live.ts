/**
 * Values that change, as frameworks take them: {@link Readable}, and the readables of a client.
 *
 * @packageDocumentation
 */
import type { ContractShape, DatasoleContract, StateKeyName, StateValue } from './contract.js';
import type { DatasoleError } from './errors.js';
import { listen } from './handlers.js';
import { Kept } from './kept.js';
import { perObject, type Readable } from './readable.js';
import type { DatasoleClient } from './slim.js';

export { connection, IDLE, lost } from './connection.js';
export { guardUnload, pendings, SETTLED, type Pending } from './pendings.js';
export { constant, select, selection, type Readable } from './readable.js';
export { replica, type CrdtName, type CrdtKind, type CrdtItem, type ReplicaState } from './replicas.js';
export { me, members, others, type Me } from './rooms.js';

/**
 * A live state as far as it is known: one object, a new one after each change.
 *
 * `stale`: the value is the latest that this client has, but the server has not said yet that it is current: there is no connection, or
 * one again and no answer yet, or a whole value has been asked for in its place. After a resume it is false once the server has said that
 * it goes on from this value: what was missed may still be arriving.
 */
export type Live<T> =
  | { status: 'loading'; data: undefined; error: undefined; stale: false }
  | { status: 'ready'; data: T; error: undefined; stale: boolean }
  | { status: 'absent'; data: undefined; error: undefined; stale: boolean }
  | { status: 'refused'; data: undefined; error: DatasoleError; stale: false };

/** A live state with its position, as a server has rendered it: see `datasole/ssr`. */
export interface Initial<T> {
  value: T;
  /** The life of the state on the server, and the number of its entries. */
  epoch: number;
  seq: number;
}

/** Options of a component's live state. */
export interface LiveStateOptions<T, S = T> {
  /** When two selections are the same, and nothing is rendered. Default: `Object.is`. */
  equals?: (a: S, b: S) => boolean;
  /** The value that a server has rendered (`fetchState` of `datasole/ssr`): shown at once, and followed from there on. */
  initial?: Initial<T> | undefined;
}

/** Options of a component's method: told of the outcome of each call. */
export interface MutationOptions<P, R> {
  onSuccess?: (result: R, params: P) => void;
  onError?: (error: DatasoleError, params: P) => void;
}

/** The live state of a key. Its functions hold it, so that it stays the same object as long as one of them is in use. */
class LiveState implements Readable<Live<any>> {
  #last?: Live<any>;

  constructor(
    private readonly client: DatasoleClient<any>,
    private readonly key: string,
  ) {}

  readonly subscribe = (changed: () => void) => {
    const { store } = this.client;
    let before = this.getSnapshot();
    const check = () => before !== (before = this.getSnapshot()) && changed();
    const { unsubscribe } = store.subscribe(this.key, check, 1);
    const end = listen(store.watchers, check);
    return () => void (unsubscribe(), end());
  };

  readonly getSnapshot = (): Live<any> => {
    const { shown, known, fresh, lost, refused: error } = this.client.store.peek(this.key) ?? {};
    const [data, last] = [error ? undefined : shown, this.#last];
    const status = error ? 'refused' : !known ? 'loading' : data === undefined ? 'absent' : 'ready';
    const current = fresh && !lost && this.client.getConnectionState() === 'connected';
    const stale = status !== 'loading' && !error && !current;
    if (last && last.status === status && last.data === data && last.error === error && last.stale === stale) return last;
    if (DEVELOPMENT) freeze(data);
    return (this.#last = { status, data, error, stale } as Live<any>);
  };
}

/** The contract of a client. */
type Of<D> = D extends { readonly __contract?: infer C extends ContractShape } ? C : DatasoleContract;

const statesOf = perObject((_client: object) => new Kept<LiveState>());

/**
 * A live state: the same object for a key as long as it is in use, and one value after each change, which tells loading, absent and
 * refused apart. In development builds values are frozen, so that whoever changes one is told.
 *
 * @example
 * ```ts
 * const board = live(client, 'board');
 * const end = board.subscribe(() => render(board.getSnapshot()));
 * ```
 */
export function live<D extends DatasoleClient<any>, K extends StateKeyName<Of<D>>>(
  client: D,
  key: K,
): Readable<Live<StateValue<Of<D>, K>>> {
  return statesOf(client).get(key, () => new LiveState(client, key));
}

/**
 * The value of a live state as soon as it is known, `undefined` if there is none; the key is followed for 5 s more.
 *
 * @throws DatasoleError when the server refuses it, and when the connection has ended for good before it is known.
 */
export function ready<D extends DatasoleClient<any>, K extends StateKeyName<Of<D>>>(
  client: D,
  key: K,
): Promise<StateValue<Of<D>, K> | undefined> {
  return client.store.ready(key).then((value) => {
    if (DEVELOPMENT) freeze(value);
    return value;
  });
}

/** The keys of values that a server has rendered. */
const seeded = new WeakMap<Initial<any>, string>();

/**
 * Begins a live state with a value that a server has rendered: it is shown at once, `stale`, and whoever follows it is sent what has
 * changed since. Without effect where this client knows the state already, and for another key than the first: components whose key changes
 * still have the value of the one before.
 */
export function seed<D extends DatasoleClient<any>, K extends StateKeyName<Of<D>>>(
  client: D,
  key: K,
  initial: Initial<StateValue<Of<D>, K>>,
): void {
  if ((seeded.get(initial) ?? key) !== key) return;
  seeded.set(initial, key);
  const { value, epoch, seq } = initial;
  const entry = client.store.entry(key);
  if (entry.known || entry.refused) return;
  entry.value = value;
  entry.known = true;
  // One that is followed is sent the whole value.
  if (entry.id) return;
  entry.since = { epoch, seq };
  entry.rev = seq;
}

/** A live state of which nothing is known. */
export const LOADING: Live<never> = { status: 'loading', data: undefined, error: undefined, stale: false };

/** A live state that a server has rendered. */
export function rendered<T>(initial: Initial<T> | undefined): Live<T> {
  return initial ? { status: 'ready', data: initial.value, error: undefined, stale: true } : LOADING;
}

/** A live state with a part of the value. */
export function part<T, S>(selector: ((value: T) => S) | undefined): (state: Live<T>) => Live<S> {
  return (state) => (selector && state.status === 'ready' ? { ...state, data: selector(state.data) } : (state as Live<any>));
}

/** Compares live states, whose values are the same by `equals`. */
export function same<T>(equals: (a: T, b: T) => boolean = Object.is): (a: Live<T>, b: Live<T>) => boolean {
  return (a, b) =>
    a.status === b.status &&
    a.error === b.error &&
    a.stale === b.stale &&
    (a.status !== 'ready' || equals(a.data, b.data as T));
}

/** True in the development builds of bundlers. */
const DEVELOPMENT = ((): boolean => {
  try {
    // Bundlers put a text in its place.
    return process.env.NODE_ENV === 'development';
  } catch {
    return false;
  }
})();

/** Parts that are frozen have been frozen as a whole. */
function freeze(value: unknown): void {
  if (typeof value !== 'object' || value === null || Object.isFrozen(value)) return;
  Object.freeze(value);
  for (const part of Object.values(value)) freeze(part);
}
