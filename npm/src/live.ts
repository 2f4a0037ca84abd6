/**
 * What changes, as frameworks take it: {@link Readable}, the contract of stores that all adapters are made of.
 *
 * @packageDocumentation
 */
import type { ContractShape, DatasoleContract, StateKeyName, StateValue } from './contract.js';
import type { DatasoleError } from './errors.js';
import { listen } from './handlers.js';
import { Kept } from './kept.js';
import type { DatasoleClient } from './slim.js';
import type { Status } from './status.js';

/** A value that changes. Both functions may be passed on by themselves. */
export interface Readable<T> {
  /** Calls `changed` after changes, until the function that it returns is called. A live state is followed meanwhile, and 5 s longer. */
  readonly subscribe: (changed: () => void) => () => void;
  /** The value now: the same identity until it changes. Reading has no effect, and works on a server that renders pages. */
  readonly getSnapshot: () => T;
}

/**
 * A live state as far as it is known: one object, a new one after each change.
 *
 * `stale`: the value is the latest that this client has, but there is no connection, or the state is not current on it yet.
 */
export type Live<T> =
  | { status: 'loading'; data: undefined; error: undefined; stale: false }
  | { status: 'ready'; data: T; error: undefined; stale: boolean }
  | { status: 'absent'; data: undefined; error: undefined; stale: boolean }
  | { status: 'refused'; data: undefined; error: DatasoleError; stale: false };

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
    const { unsubscribe } = store.subscribe(this.key, check, true);
    const end = listen(store.watchers, check);
    return () => void (unsubscribe(), end());
  };

  readonly getSnapshot = (): Live<any> => {
    const { shown, known, rev, lost, refused: error } = this.client.store.peek(this.key) ?? {};
    const [data, last] = [error ? undefined : shown, this.#last];
    const status = error ? 'refused' : !known ? 'loading' : data === undefined ? 'absent' : 'ready';
    const fresh = rev !== undefined && !lost && this.client.getConnectionState() === 'connected';
    const stale = status !== 'loading' && !error && !fresh;
    if (last && last.status === status && last.data === data && last.error === error && last.stale === stale) return last;
    return (this.#last = { status, data, error, stale } as Live<any>);
  };
}

/** The contract of a client. */
type Of<D> = D extends { readonly __contract?: infer C extends ContractShape } ? C : DatasoleContract;

/** Of each client. */
const states = new WeakMap<object, Kept<LiveState>>();

/**
 * A live state: the same object for a key as long as it is in use, and one value after each change, which tells loading, absent and
 * refused apart.
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
  let own = states.get(client);
  if (!own) states.set(client, (own = new Kept()));
  return own.get(key, () => new LiveState(client, key));
}

/**
 * The value of a live state as soon as it is known, `undefined` if there is none; the key is followed for 5 s more.
 *
 * @throws DatasoleError when the server refuses it.
 */
export function ready<D extends DatasoleClient<any>, K extends StateKeyName<Of<D>>>(
  client: D,
  key: K,
): Promise<StateValue<Of<D>, K> | undefined> {
  const { subscribe, getSnapshot } = live(client, key);
  return new Promise((resolve, reject) => {
    const end = subscribe(settle);
    settle();
    function settle() {
      const { status, data, error } = getSnapshot();
      if (status === 'loading') return;
      end();
      if (error) reject(error);
      else resolve(data);
    }
  });
}

const connections = new WeakMap<object, Readable<Status>>();

/** The status of a client. */
export function connection(client: DatasoleClient<any>): Readable<Status> {
  let own = connections.get(client);
  if (!own) {
    let now: Status | undefined;
    const listen = (handler: (status: Status) => void) => client.onStatus(handler);
    own = {
      subscribe: (changed) => {
        let first = true;
        const end = listen(() => first || changed());
        first = false;
        return end;
      },
      getSnapshot: () => {
        // At once.
        listen((status) => (now = status))();
        return now!;
      },
    };
    connections.set(client, own);
  }
  return own;
}

/**
 * A part of a readable, which changes only when `equals` says so.
 *
 * @example
 * ```ts
 * const title = select(live(client, 'board'), ({ data }) => data?.title);
 * ```
 */
export function select<T, S>(
  { subscribe, getSnapshot }: Readable<T>,
  selector: (value: T) => S,
  equals: (a: S, b: S) => boolean = Object.is,
): Readable<S> {
  let last: { of: T; value: S } | undefined;
  const read = () => {
    const of = getSnapshot();
    if (!last || last.of !== of) {
      const value = selector(of);
      last = { of, value: last && equals(last.value, value) ? last.value : value };
    }
    return last.value;
  };
  return {
    subscribe(changed) {
      let before = read();
      return subscribe(() => {
        const now = read();
        if (Object.is(before, now)) return;
        before = now;
        changed();
      });
    },
    getSnapshot: read,
  };
}
