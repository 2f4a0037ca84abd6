/** Events of the page for the core: network changes, visibility, the return from the bfcache. */
import type { Hint } from './protocol.js';

/** Tells `hint` until the returned function is called. Does nothing where there is no page. */
export function watchPage(hint: (kind: Hint) => void): () => void {
  const end = new AbortController();
  const tell = ({ type }: Event) => {
    if (/line$/.test(type)) hint(type as Hint);
    else hint(type === 'visibilitychange' && document.hidden ? 'hidden' : 'visible');
  };
  const on = (target: Partial<EventTarget> | undefined, ...events: string[]) => {
    for (const event of events) target?.addEventListener?.(event, tell, end);
  };
  // No unload handlers: they would keep the page out of the bfcache.
  on(globalThis, 'online', 'offline', 'pageshow');
  on(globalThis.document, 'resume', 'visibilitychange');
  return () => end.abort();
}

/** Calls `hide` when the page goes into the back/forward cache, `show` when it comes back. Returns what ends it. */
export function whileCached(hide: () => void, show: () => void): () => void {
  if (typeof addEventListener !== 'function') return () => {};
  const end = new AbortController();
  addEventListener('pagehide', hide, end);
  addEventListener('pageshow', show, end);
  return () => end.abort();
}

/** A delay for `setTimeout`, which takes a longer one for none. */
export function delay(millis: number): number {
  return Math.min(millis, 2 ** 31 - 1);
}
