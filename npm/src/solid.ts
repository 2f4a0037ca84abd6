/**
 * Readables and live states for Solid.
 *
 * @packageDocumentation
 */
import { from, type Accessor } from 'solid-js';
import type { ContractShape, Registered, StateKeyName, StateValue } from './contract.js';
import { live, part, rendered, same, seed, select as selectOf, type Initial, type Live, type LiveStateOptions, type Readable } from './live.js';
import type { DatasoleClient } from './slim.js';

export type { Initial, Live, LiveStateOptions, Readable };

/** A readable as a signal, which ends with the owner. */
export function fromReadable<T>({ subscribe, getSnapshot }: Readable<T>): Accessor<T> {
  return from<T>((set) => {
    const end = subscribe(() => set(() => getSnapshot()));
    // It may have changed since it was read below.
    set(() => getSnapshot());
    return end;
  }, getSnapshot());
}

/**
 * A live state, or what `select` makes of its value. On a server that renders pages it is `loading`, or what `initial` says.
 *
 * @example
 * ```tsx
 * const board = createLiveState(client, 'board');
 * return <h1>{board().data?.title}</h1>;
 * ```
 */
export function createLiveState<C extends ContractShape = Registered, K extends StateKeyName<C> = StateKeyName<C>, S = StateValue<C, K>>(
  client: DatasoleClient<C>,
  key: K,
  select?: (value: StateValue<C, K>) => S,
  { equals, initial }: LiveStateOptions<StateValue<C, K>, S> = {},
): Accessor<Live<S>> {
  if (typeof window === 'undefined') {
    const shown = part(select)(rendered(initial));
    return () => shown;
  }
  if (initial) seed(client as DatasoleClient<any>, key, initial);
  return fromReadable(selectOf(live(client as DatasoleClient<any>, key), part<any, S>(select), same(equals)));
}
