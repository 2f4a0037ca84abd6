/** Handlers: functions of the application, which may throw, end each other, and listen twice. */
import { report } from './errors.js';

/** A handler that throws harms no one else. */
export function guarded(action: () => void): void {
  try {
    action();
  } catch (error) {
    report(error);
  }
}

/** Tells all of them, but those that end meanwhile. */
export function call<T>(handlers: Set<(value: T) => void>, value?: T): void {
  for (const handler of [...handlers]) {
    // As `guarded` does, without a closure for each.
    try {
      if (handlers.has(handler)) handler(value!);
    } catch (error) {
      report(error);
    }
  }
}

/** Adds one; returns what removes it, and says whether it was there. */
export function listen<T>(handlers: Set<(value: T) => void>, handler: (value: T) => void): () => boolean {
  // Of its own, so that the same function can listen twice.
  const own = (value: T) => handler(value);
  handlers.add(own);
  return () => handlers.delete(own);
}

/** As {@link listen}, and tells it at once. */
export function show<T>(handlers: Set<(value: T) => void>, handler: (value: T) => void, now: T): () => boolean {
  const end = listen(handlers, handler);
  guarded(() => handler(now));
  return end;
}

/** Does something once for all calls of a turn, at its end. */
export function once(action: () => void): () => void {
  let due = false;
  return () => {
    if (due) return;
    due = true;
    queueMicrotask(() => {
      due = false;
      action();
    });
  };
}
