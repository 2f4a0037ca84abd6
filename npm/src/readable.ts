/** Values that change: {@link Readable}, the contract of stores that all adapters are made of. */

/** A value that changes. Both functions may be passed on by themselves. */
export interface Readable<T> {
  /** Calls `changed` after changes, until the function that it returns is called. A live state is followed meanwhile, and 5 s longer. */
  readonly subscribe: (changed: () => void) => () => void;
  /** The value now: the same identity until it changes. Reading has no effect, and works on a server that renders pages. */
  readonly getSnapshot: () => T;
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
  const read = selection(selector, equals);
  return {
    subscribe(changed) {
      let before = read(getSnapshot());
      return subscribe(() => {
        const now = read(getSnapshot());
        if (Object.is(before, now)) return;
        before = now;
        changed();
      });
    },
    getSnapshot: () => read(getSnapshot()),
  };
}

/** A readable that never changes. */
export function constant<T>(value: T): Readable<T> {
  return { subscribe: () => () => {}, getSnapshot: () => value };
}

/** A selector that returns the selection before for one that is equal. `first`: a selection to begin with. */
export function selection<T, S>(
  selector: (value: T) => S,
  equals: (a: S, b: S) => boolean,
  first?: { value: S },
): (from: T) => S {
  let last: { from?: [T]; value: S } | undefined = first;
  return (from) => {
    if (!last?.from || last.from[0] !== from) {
      const value = selector(from);
      last = { from: [from], value: last && equals(last.value, value) ? last.value : value };
    }
    return last.value;
  };
}

/** Things of objects: one for each, made when it is first asked for. @internal */
export function perObject<K extends object, R, A extends unknown[]>(make: (of: K, ...from: A) => R): (of: K, ...from: A) => R {
  const made = new WeakMap<K, R>();
  return (of, ...from) => {
    let found = made.get(of);
    if (!found) made.set(of, (found = make(of, ...from)));
    return found;
  };
}
