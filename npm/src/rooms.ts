/** The members of presence rooms, as readables. */
import { call, listen } from './handlers.js';
import { perObject, select, type Readable } from './readable.js';
import type { Member, Room } from './presence.js';

const membersOf = perObject((room: Room): Readable<readonly Member[]> => ({
  subscribe: (changed) => {
    // At once, and then after changes.
    let silent = true;
    const { unsubscribe } = room.subscribe(() => silent || changed());
    silent = false;
    return () => {
      silent = true;
      // Frameworks leave and come back within a turn: others should not notice.
      setTimeout(unsubscribe);
    };
  },
  getSnapshot: () => room.members,
}));

/** The members of a room; the room is followed while somebody subscribes. */
export function members<T>(room: Room<T>): Readable<readonly Member<T>[]> {
  return membersOf(room);
}

const othersOf = perObject((room: Room) =>
  select(
    membersOf(room),
    (members): readonly Member[] => members.filter(({ self }) => !self),
    (a, b) => a.length === b.length && a.every((member, at) => member === b[at]),
  ),
);

/** The members of a room without this client, whose own changes change nothing here. */
export function others<T>(room: Room<T>): Readable<readonly Member<T>[]> {
  return othersOf(room);
}

/** This client in a room; a readable of its value there, `undefined` outside. */
export interface Me<T> extends Readable<T | undefined> {
  /** Joins the room with a value, unless it was joined before. Returns what leaves it, once all have. */
  enter(initial: T): () => void;
  /** Changes members of the value; replaces one that is no object. Outside the room, counts if it is entered in the same turn. */
  update(patch: Partial<T>): void;
}

const meIn = perObject((room: Room): Me<any> => {
  const readers = new Set<() => void>();
  /** How many have entered; the room is left a turn after the last one. */
  let inside = 0;
  let joined = false;
  let value: unknown;
  /** What was changed before anybody entered, in the same turn. */
  let early: unknown;
  const set = (now: unknown) => {
    value = now;
    call(readers);
  };
  return {
    subscribe: (changed) => {
      const end = listen(readers, changed);
      return () => void end();
    },
    getSnapshot: () => value,
    enter: (initial) => {
      inside++;
      if (!joined) {
        joined = true;
        // A change made before, by a component that is mounted earlier, counts.
        set(merge(initial, early));
        early = undefined;
        room.join(value);
      }
      let left = false;
      return () => {
        if (left) return;
        left = true;
        inside--;
        // As in `membersOf`.
        setTimeout(() => {
          if (inside || !joined) return;
          joined = false;
          set(undefined);
          room.leave();
        });
      };
    },
    update: (patch) => {
      if (joined) {
        set(merge(value, patch));
        return room.update(value);
      }
      // A later one is of nobody: the event of a component that has gone.
      if (early === undefined) setTimeout(() => (early = undefined));
      early = merge(early, patch);
    },
  };
});

/** This client in a room: the same object as long as the room is in use. */
export function me<T>(room: Room<T>): Me<T> {
  return meIn(room);
}

function merge(value: unknown, patch: unknown): unknown {
  return isObject(value) && isObject(patch) ? { ...value, ...patch } : patch === undefined ? value : patch;
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
