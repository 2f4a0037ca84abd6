/**
 * The mirror of live states: immutable values with structural sharing, and their handlers.
 *
 * A value that a handler or the application has seen never changes. Between two looks, patches write into the same
 * copies, so that a container is copied at most once per look. Handlers look when {@link Store.settle} is called, once
 * for all the changes that came together.
 */
import { call, guarded, listen } from './handlers.js';
import { type DatasoleError, report } from './errors.js';
import type { Subscription } from './options.js';
import type { FollowedKind, Since, ToWorker } from './protocol.js';
import { applyPatch, refuse, type Patched } from './patch.js';

/**
 * A followed key. Patches may write to copies made since the value was last shown. `text`: its growth since it came as a whole or, if
 * that was measured since, its length.
 */
interface Entry extends Patched {
  /** The value after the last patch. */
  value?: unknown;
  /** The value that was last shown. */
  shown?: unknown;
  /** The position of the stream; undefined before its first snapshot. */
  rev?: number;
  /** A snapshot has been asked for; until then patches lead nowhere. */
  lost?: boolean;
  /** A patch was applied since the last that was not. */
  applied?: boolean;
  /** The value is current on this connection, as far as it is shown: a snapshot has come, or the server goes on from it. */
  fresh?: boolean;
  /** Version 1: a change was left out. */
  doubtful?: boolean;
  /** The position of a value that did not come from the core, until one does. */
  since?: Since;
  /** When the application last asked for the value without a handler. */
  read: number;
  /** A snapshot has come. */
  known?: boolean;
  /** The server does not show it: reading it does not ask again. */
  refused?: DatasoleError;
  /** How many are told of refusals by {@link Store.peek}. */
  watched: number;
  handlers: Set<(value: unknown) => void>;
  /** The subscription, 0 without one. A refused one stays, so that it is not asked for at every look. */
  id: number;
}

/** The client, as states and topics see it. */
export interface FollowHost {
  /** Subscribes; returns the subscription's id, not 0. */
  follow(kind: FollowedKind, key: string, since?: Since): number;
  /** After `unsubscribe` the core goes on for a while; then {@link Store.left}. */
  send(message: ToWorker): void;
  /** True if the server sends unfollowed keys, too (version 1). */
  unasked(): boolean;
  /** The error with which the connection has ended for good, until it is wanted again. */
  ended(): DatasoleError | undefined;
}

/** How long a key is followed after its last handler has gone: effects and routes that change find it again. */
export const LINGER_MS = 5_000;
/** How long a value may become by patches, as text; the native client's limit. Snapshots fit into a frame. */
const MAX_TEXT = 16 * 1024 * 1024;
/** How long after it was last read without a handler. */
const READ_MS = 60_000;

/** See the module. */
export class Store {
  /** Told when what is known may have become stale, current, or refused. */
  readonly watchers = new Set<() => void>();
  readonly #entries = new Map<string, Entry>();
  /** All that is known, by key. Looking at it has no effect. */
  readonly all: ReadonlyMap<string, Readonly<Entry>> = this.#entries;
  /** Changed since handlers were last told. */
  readonly #changed = new Set<Entry>();
  /** Something has become current since watchers were last told. */
  #confirmed = false;
  readonly #host: FollowHost;

  constructor(host: FollowHost) {
    this.#host = host;
  }

  /** The current value; follows the key for a while if it has no follower. */
  get(key: string): unknown {
    const entry = this.entry(key);
    const now = Date.now();
    // Once a second is enough, and a clock that is set back does not matter.
    if (!entry.handlers.size && !entry.refused && Math.abs(now - entry.read) > 1_000) {
      entry.read = now;
      this.#ensureFollowed(key, entry);
      this.#leave(key, entry, READ_MS);
    }
    return look(entry);
  }

  /** Calls at once with the current value, unless it is `watched` (1), then after each change. */
  subscribe(key: string, handler: (value: unknown) => void, watched = 0): Subscription {
    const entry = this.entry(key);
    entry.watched += watched;
    const stop = listen(entry.handlers, handler);
    this.#ensureFollowed(key, entry);
    if (!watched) guarded(() => handler(look(entry)));
    const ready = () => this.ready(key);
    return {
      unsubscribe: () => {
        if (!stop()) return;
        entry.watched -= watched;
        if (!entry.handlers.size) this.#leave(key, entry, LINGER_MS);
      },
      get ready() {
        return ready();
      },
    };
  }

  /** The value as soon as it is known; the key is followed until then. */
  ready(key: string): Promise<any> {
    return new Promise((resolve, reject) => {
      const check = () => {
        const { known, shown, refused = known ? undefined : this.#host.ended() } = this.peek(key)!;
        if (!known && !refused) return;
        unsubscribe();
        end();
        if (refused) reject(refused);
        else resolve(shown);
      };
      const { unsubscribe } = this.subscribe(key, check, 1);
      const end = listen(this.watchers, check);
      check();
    });
  }

  /** All that is known of a key; looking at it has no effect. */
  peek(key: string): Readonly<Entry> | undefined {
    const entry = this.#entries.get(key);
    if (entry) look(entry);
    return entry;
  }

  /** The core has left a key. Whoever follows it by now has asked for it anew. */
  left(key: string): void {
    const entry = this.#entries.get(key);
    // The value is stale from here on.
    if (entry && !entry.handlers.size && !this.#host.unasked()) this.#entries.delete(key);
  }

  /** The server refused a key; how many who watch are told. */
  refused(key: string, error: DatasoleError): number | undefined {
    const entry = this.#entries.get(key);
    const told = entry?.watched;
    if (entry) entry.refused = error;
    call(this.watchers);
    return told;
  }

  /** A subscription was answered: if the server goes on from here, what is here is current, but for what is on its way. So it is on version 1, which says no more. */
  subscribed(key: string, recovered: boolean): void {
    const entry = this.#entries.get(key);
    if (entry && (recovered || this.#host.unasked())) entry.fresh = this.#confirmed = true;
  }

  /** A whole value arrived, `old` where it is not known to be current; of a key that was just left, it is late. */
  snapshot(key: string, rev: number, value: unknown, old?: boolean): void {
    if (!this.#entries.has(key) && !this.#host.unasked()) return;
    const entry = this.entry(key);
    entry.value = value;
    entry.owned.clear();
    entry.text = 0;
    entry.rev = rev;
    entry.known = true;
    entry.fresh = !old;
    entry.lost = entry.doubtful = entry.refused = undefined;
    this.#changed.add(entry);
  }

  /**
   * A change arrived. One that does not fit, or makes the value too long, is repaired by a snapshot; meanwhile the value shown before stays. A server of
   * version 1 cannot send one: there the change is left out.
   */
  patch(key: string, rev: number, ops: unknown[]): void {
    const entry = this.#entries.get(key);
    if (!entry || entry.lost) return;
    const repairable = !this.#host.unasked();
    try {
      if (entry.rev === undefined || (rev !== entry.rev + 1 && repairable)) refuse();
      // A value that cannot be repaired must not be half changed.
      if (!repairable) entry.owned.clear();
      const value = applyPatch(entry.value, ops, entry);
      if (entry.text > MAX_TEXT && (entry.text = JSON.stringify(value).length) > MAX_TEXT) refuse();
      entry.value = value;
      entry.applied = true;
      this.#changed.add(entry);
    } catch {
      entry.owned.clear();
      if (repairable) {
        entry.value = entry.shown;
        entry.lost = true;
        this.#host.send({ t: 'resync', key, applied: !!entry.applied });
        entry.applied = false;
      } else if (!entry.doubtful) {
        entry.doubtful = true;
        report(new Error(`state ${key} may be wrong: a change did not fit`));
      }
    }
    entry.rev = rev;
  }

  /** Calls the handlers of changed keys, and watchers of those that have become current. */
  settle(): void {
    // Before every event, which changes no state.
    if (this.#changed.size) {
      const changed = [...this.#changed];
      this.#changed.clear();
      changed.forEach(notify);
    }
    if (this.#confirmed) call(this.watchers);
    this.#confirmed = false;
  }

  /** The connection has another state: without one, no value is known to be current. */
  connected(is: boolean): void {
    if (!is) for (const entry of this.#entries.values()) entry.fresh = false;
    call(this.watchers);
  }

  /** Follows all keys on a new core, keeping the values shown so far; on a new connection, those that were `refused`. */
  renew(refused?: boolean): void {
    for (const [key, entry] of this.#entries) {
      if (refused && !entry.refused) continue;
      entry.rev = entry.since?.seq;
      entry.id = 0;
      entry.lost = entry.refused = undefined;
      if (!entry.handlers.size && !entry.read) continue;
      this.#ensureFollowed(key, entry);
      if (!entry.handlers.size) this.#leave(key, entry, READ_MS);
    }
  }

  /** The entry of a key. */
  entry(key: string): Entry {
    let entry = this.#entries.get(key);
    if (!entry) this.#entries.set(key, (entry = { text: 0, owned: new Set(), read: 0, watched: 0, handlers: new Set(), id: 0 }));
    return entry;
  }

  #ensureFollowed(key: string, entry: Entry): void {
    if (!entry.id) entry.id = this.#host.follow('state', key, entry.since);
  }

  #leave(key: string, entry: Entry, linger: number): void {
    this.#host.send({ t: 'unsubscribe', id: entry.id, linger });
    entry.id = 0;
    // The core says nothing of one that it does not follow.
    if (entry.refused) setTimeout(() => entry.refused && this.left(key), linger);
  }
}

/** Returns the current value, which no patch writes to from here on. */
function look(entry: Entry): unknown {
  entry.owned.clear();
  return (entry.shown = entry.value);
}

function notify(entry: Entry): void {
  entry.since = undefined;
  if (entry.handlers.size) call(entry.handlers, look(entry));
}
