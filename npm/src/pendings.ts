/** The things that a client still has to send, or waits for. */
import { call, listen, once } from './handlers.js';
import { perObject, type Readable } from './readable.js';
import type { DatasoleClient } from './slim.js';

/** The number of things that would be lost, or whose outcome would not be known, if the page ended now. */
export interface Pending {
  /** Calls without an answer. */
  calls: number;
  /** Operations on CRDTs that the server has not confirmed. */
  crdt: number;
  /** Changes of documents that the server has not acknowledged. */
  docs: number;
  total: number;
}

/** Nothing. */
export const SETTLED: Pending = { calls: 0, crdt: 0, docs: 0, total: 0 };

const pendingsOf = perObject((client: DatasoleClient<any>): Readable<Pending> => {
  const readers = new Set<() => void>();
  let now = SETTLED;
  const getSnapshot = () => {
    const calls = client.calls.open.size;
    let [crdt, docs] = [0, 0];
    for (const [name, { stream }] of client.streams.all) {
      if (name.startsWith('crdt')) crdt += stream.pending ?? 0;
      else docs += stream.pending ?? 0;
    }
    if (now.calls !== calls || now.crdt !== crdt || now.docs !== docs) now = { calls, crdt, docs, total: calls + crdt + docs };
    return now;
  };
  let before = now;
  let unwatch = () => {};
  const check = once(() => before !== (before = getSnapshot()) && call(readers));
  return {
    subscribe: (changed) => {
      if (!readers.size) {
        before = getSnapshot();
        client.traffic = check;
        // Calls end with their connection.
        unwatch = listen(client.store.watchers, check);
      }
      const end = listen(readers, changed);
      return () => {
        if (!end() || readers.size) return;
        client.traffic = undefined;
        unwatch();
      };
    },
    getSnapshot,
  };
});

/** The number of calls, operations and changes of a client that are not settled. */
export function pendings(client: DatasoleClient<any>): Readable<Pending> {
  return pendingsOf(client);
}

/** The browser asks before the page is left while something of a client is not settled. Returns what ends it. */
export function guardUnload(client: DatasoleClient<any>): () => void {
  const guard = (event: { preventDefault(): void }) => pendings(client).getSnapshot().total && event.preventDefault();
  addEventListener('beforeunload', guard);
  return () => removeEventListener('beforeunload', guard);
}
