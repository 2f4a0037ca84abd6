/** Presence: what the connections in a room say of themselves. */
import type { Channel, ChannelHandlers } from './channel.js';
import { refused, report } from './errors.js';
import { call, guarded, listen, throttled } from './handlers.js';

/** What somebody in a room says. */
export interface Member<T = any> {
  /** The connection; a user may have several. */
  id: string;
  userId: string;
  value: T;
  /** Whether it is this client. */
  self: boolean;
}

/** Options of {@link DatasoleClient.presence}. */
export interface PresenceOptions {
  /** Changes leave at most this often, the last one always. Default 50 ms. */
  throttle?: number;
}

/** What a room stands on. @internal */
export interface RoomHost {
  open(handlers: ChannelHandlers): Channel;
  /** This connection. */
  self(): string | undefined;
}

/**
 * A room, of which this client may be a member. Nothing is stored: a value lasts as long as its connection, and after a
 * new one this client joins again by itself.
 *
 * @example
 * ```ts
 * const room = client.presence('lobby');
 * room.subscribe((members) => show(members.map(({ value }) => value.name)));
 * room.join({ name: 'Ann' });
 * ```
 */
export class Room<T = any> {
  readonly #host: RoomHost;
  readonly #announce: () => void;
  readonly #all = new Map<string, Member<T>>();
  readonly #handlers = new Set<(members: readonly Member<T>[]) => void>();
  #members: readonly Member<T>[] = [];
  #channel?: Channel;
  /** What this client says, in a box; none outside the room. */
  #own?: { value: T };

  /** @internal */
  constructor(host: RoomHost, { throttle = 50 }: PresenceOptions = {}) {
    this.#host = host;
    this.#announce = throttled(() => this.#own && this.#send(), throttle);
  }

  /** Who is there; a new array after each change. Up to date while this client is a member or somebody subscribes. */
  get members(): readonly Member<T>[] {
    return this.#members;
  }

  /** Enters the room with a value: any JSON. */
  join(value: T): void {
    this.update(value);
  }

  /** Replaces the value; of those in quick succession, the last one is sent. */
  update(value: T): void {
    this.#own = { value };
    this.#follow();
    this.#announce();
  }

  /** Leaves the room. */
  leave(): void {
    if (!this.#own) return;
    this.#own = undefined;
    this.#send();
    this.#follow();
  }

  /** Calls `handler` at once with the members, then after each change. */
  subscribe(handler: (members: readonly Member<T>[]) => void): { unsubscribe(): void } {
    const end = listen(this.#handlers, handler);
    guarded(() => handler(this.#members));
    this.#follow();
    return {
      unsubscribe: () => {
        end();
        this.#follow();
      },
    };
  }

  /** Hears of the room as long as that is wanted. */
  #follow(): void {
    if (!this.#own && !this.#handlers.size) {
      this.#channel?.close();
      this.#channel = undefined;
    }
    else this.#channel ??= this.#host.open({
      subscribed: this.#announce,
      entry: (data, whole) => this.#entry(data as Omit<Member<T>, 'self'>[], whole),
      refused: report,
    });
  }

  #entry(members: Omit<Member<T>, 'self'>[], whole: boolean): void {
    if (whole) this.#all.clear();
    for (const { id, userId, value } of members) {
      if (value === undefined) this.#all.delete(id);
      else this.#all.set(id, { id, userId, value, self: id === this.#host.self() });
    }
    this.#members = [...this.#all.values()];
    call(this.#handlers, this.#members);
  }

  #send(): void {
    const value = this.#own && (this.#own.value ?? null);
    this.#channel?.submit(value).catch((error) => {
      if (refused(error, this.#announce)) report(error);
    });
  }
}
