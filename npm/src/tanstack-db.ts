/**
 * Live states as collections of TanStack DB: {@link datasoleCollection}.
 *
 * @packageDocumentation
 */
import type { CollectionConfig } from '@tanstack/db';
import { live, type Live, type Readable } from './live.js';
import type { DatasoleClient } from './slim.js';

/** Options of {@link datasoleCollection}: those of any collection, and which state it is. */
export interface DatasoleCollectionOptions<T extends object, K extends string | number>
  extends Omit<CollectionConfig<T, K>, 'sync' | 'rowUpdateMode'> {
  client: DatasoleClient<any>;
  /** The key of the live state. */
  key: string;
  /** The rows of the state's value. Default: the value, if it is an array, else the values of its members. */
  rows?: (value: any) => readonly T[];
}

/**
 * The options of a collection whose rows are a live state's. A batch of changes is one transaction, in which a row that is the same object is no
 * change. `onInsert`, `onUpdate` and `onDelete` may call methods of the server.
 *
 * @example
 * ```ts
 * const todos = createCollection(datasoleCollection<Todo, string>({ client, key: 'todos', getKey: ({ id }) => id }));
 * ```
 */
export function datasoleCollection<T extends object, K extends string | number = string | number>({
  client,
  key,
  rows = (value) => (Array.isArray(value) ? value : Object.values(value ?? {})),
  ...config
}: DatasoleCollectionOptions<T, K>): CollectionConfig<T, K> {
  const { getKey } = config;
  return {
    id: `datasole:${key}`,
    ...config,
    sync: {
      rowUpdateMode: 'full',
      sync({ begin, write, commit, markReady, markError }) {
        const state: Readable<Live<any>> = live(client, key);
        let shown = new Map<K, T>();
        const follow = () => {
          const { status, data, error } = state.getSnapshot();
          if (status === 'loading') return;
          if (status === 'refused') return markError(error);
          const now = new Map(rows(data).map((row) => [getKey(row), row]));
          begin();
          for (const [id, value] of now) {
            const before = shown.get(id);
            if (!before) write({ type: 'insert', value });
            else if (before !== value) write({ type: 'update', value });
          }
          for (const [id, value] of shown) if (!now.has(id)) write({ type: 'delete', value });
          commit();
          shown = now;
          markReady();
        };
        const end = state.subscribe(follow);
        follow();
        return end;
      },
    },
  };
}
