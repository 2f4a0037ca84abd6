/** The connection of a client, as readables. */
import { call, listen } from './handlers.js';
import { delay } from './lifecycle.js';
import { perObject, type Readable } from './readable.js';
import type { DatasoleClient } from './slim.js';
import type { Status } from './status.js';

/** The status of a client that was never connected. */
export const IDLE: Status = { state: 'disconnected', reason: { kind: 'idle', message: 'never connected' } };

const connectionOf = perObject((client: DatasoleClient<any>): Readable<Status> => {
  let now: Status | undefined;
  return {
    subscribe: (changed) => {
      let first = true;
      const end = client.onStatus(() => first || changed());
      first = false;
      return end;
    },
    getSnapshot: () => {
      // At once.
      client.onStatus((status) => (now = status))();
      return now!;
    },
  };
});

/** The status of a client. */
export function connection(client: DatasoleClient<any>): Readable<Status> {
  return connectionOf(client);
}

/**
 * True while there has been no connection for `after` milliseconds (default 5,000), though this client wants one: short interruptions
 * are nobody's business. Watched as long as somebody subscribes.
 */
export function lost(client: DatasoleClient<any>, after = 5_000): Readable<boolean> {
  const readers = new Set<() => void>();
  let value = false;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let end: (() => void) | undefined;
  const set = (now: boolean) => {
    clearTimeout(timer);
    timer = undefined;
    if (value === now) return;
    value = now;
    call(readers);
  };
  const check = () => {
    const { state, reason } = connection(client).getSnapshot();
    if (state === 'connected') return set(false);
    if (state === 'disconnected') return set(!/^(idle|closedByUser)$/.test(reason?.kind ?? 'idle'));
    if (!value) timer ??= setTimeout(() => set(true), delay(after));
  };
  return {
    subscribe: (changed) => {
      const leave = listen(readers, changed);
      if (!end) {
        end = connection(client).subscribe(check);
        check();
      }
      return () => {
        if (!leave() || readers.size) return;
        end?.();
        end = undefined;
        set(false);
      };
    },
    getSnapshot: () => value,
  };
}
