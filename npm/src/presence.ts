/** Presence: the members of a room and their values. */
import { call, show } from './handlers.js';
import type { StreamMessage } from './protocol.js';
import type { Port, Stream } from './streams.js';

/** A member of a room. */
export interface Member<T = any> {
  /** The connection; a user may have several. */
  id: string;
  userId: string;
  value: T;
  /** True for this client, which is one member: until the value of a new connection is here, that of the last one. */
  self: boolean;
}

/** Options of {@link DatasoleClient.presence}. */
export interface PresenceOptions {
  /** Changes leave at most this often, the last one always. Default 50 ms. */
  throttle?: number;
}

/**
 * A presence room. A value lasts as long as its connection; on reconnecting the client joins again.
 *
 * @example
 * ```ts
 * const room = client.presence('lobby');
 * room.subscribe((members) => show(members.map(({ value }) => value.name)));
 * room.join({ name: 'Ann' });
 * ```
 */
export class Room<T = any> {
  /** Vue leaves it as it is. @internal */
  readonly __v_skip = true;
  readonly #all = new Map<string, Member<T>>();
  readonly #handlers = new Set<(members: readonly Member<T>[]) => void>();
  #members: readonly Member<T>[] = [];
  #port?: Port;
  /** This client's value as JSON; none outside the room. */
  #own?: string;

  /** @internal */
  constructor(private readonly open: (room: Stream) => Port) {}

  /** The members; a new array after each change. Current while this client is a member or has subscribed. */
  get members(): readonly Member<T>[] {
    return this.#members;
  }

  /** Enters the room with a value: any JSON. */
  join(value: T): void {
    this.update(value);
  }

  /** Replaces the value; of those in quick succession, the last one is sent. */
  update(value: T): void {
    // Throws before anything has changed.
    this.#own = JSON.stringify(value ?? null) ?? 'null';
    this.#follow();
    this.renew();
  }

  /** Leaves the room. */
  leave(): void {
    if (!this.#own) return;
    this.#own = undefined;
    this.renew();
    this.#follow();
  }

  /** Calls `handler` at once with the members, then after each change. */
  subscribe(handler: (members: readonly Member<T>[]) => void): { unsubscribe(): void } {
    const end = show(this.#handlers, handler, this.#members);
    this.#follow();
    return { unsubscribe: () => (end(), this.#follow()) };
  }

  /** Shows the own value, or none. @internal */
  renew(): void {
    this.#port?.send({ t: 'show', json: this.#own });
  }

  /** @internal */
  entry({ data, whole }: StreamMessage & { t: 'entry' }): void {
    if (whole) this.#all.clear();
    for (const { id, userId, value, own } of data as (Member<T> & { own?: true })[]) {
      if (value === undefined) this.#all.delete(id);
      else this.#all.set(id, { id, userId, value, self: !!own });
    }
    this.#members = [...this.#all.values()];
    call(this.#handlers, this.#members);
  }

  /** Opens or closes the room, as needed. */
  #follow(): void {
    if (this.#own || this.#handlers.size) this.#port ??= this.open(this);
    else if (this.#port) {
      this.#port.close();
      this.#port = undefined;
      // A client that comes back is not shown the members of then.
      this.#all.clear();
      this.#members = [];
    }
  }
}
