/**
 * Readables and live states for Svelte 5.7 and later.
 *
 * @packageDocumentation
 */
import { createSubscriber } from 'svelte/reactivity';
import type { ContractShape, Registered, StateKeyName, StateValue } from './contract.js';
import { live, part, rendered, same, seed, select as selectOf, type Initial, type Live, type LiveStateOptions, type Readable } from './live.js';
import type { DatasoleClient } from './slim.js';

export type { Initial, Live, LiveStateOptions, Readable };

/** A value that changes, as templates and effects read it. */
export interface Current<T> {
  readonly current: T;
}

/** A readable: followed while an effect or a template reads it. */
export function fromReadable<T>({ subscribe, getSnapshot }: Readable<T>): Current<T> {
  const track = createSubscriber(subscribe);
  return {
    get current() {
      track();
      return getSnapshot();
    },
  };
}

/**
 * A live state, or what `select` makes of its value. On a server that renders pages it is `loading`, or what `initial` says.
 *
 * @example
 * ```svelte
 * <script lang="ts">
 *   const board = liveState(client, 'board');
 * </script>
 * <h1>{board.current.data?.title}</h1>
 * ```
 */
export function liveState<C extends ContractShape = Registered, K extends StateKeyName<C> = StateKeyName<C>, S = StateValue<C, K>>(
  client: DatasoleClient<C>,
  key: K,
  select?: (value: StateValue<C, K>) => S,
  { equals, initial }: LiveStateOptions<StateValue<C, K>, S> = {},
): Current<Live<S>> {
  if (typeof window === 'undefined') return { current: part(select)(rendered(initial)) };
  if (initial) seed(client as DatasoleClient<any>, key, initial);
  return fromReadable(selectOf(live(client as DatasoleClient<any>, key), part<any, S>(select), same(equals)));
}
