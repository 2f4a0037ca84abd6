/**
 * The client without CRDTs, for pages that count bytes: {@link DatasoleClient}. `datasole/client` adds them, and is a copy of its
 * own: an application imports the one or the other, its errors included.
 *
 * @packageDocumentation
 */
import { Calls, encode, type CallHost } from './calls.js';
import type {
  Args,
  ContractShape,
  EventData,
  EventHandler,
  HeardName,
  Registered,
  RoomName,
  RoomValue,
  RpcName,
  RpcParams,
  RpcResult,
  SentName,
  StateHandler,
  StateKeyName,
  StateValue,
} from './contract.js';
import type { ReplicaHost } from './crdt/replica.js';
import { Code } from './codes.js';
import { hideClient, showClient } from './development.js';
import { errorOf, localError, report, type DatasoleError } from './errors.js';
import { call, show } from './handlers.js';
import { Kept } from './kept.js';
import { delay, watchPage } from './lifecycle.js';
import { Link } from './link.js';
import { deferred, type Opening } from './opening.js';
import type { DatasoleClientOptions, EmitOptions, RpcOptions, Subscription } from './options.js';
import { Room, type PresenceOptions } from './presence.js';
import type { FromWorker, StreamMessage, ToWorker } from './protocol.js';
import type { ConnectionState, Status, StatusReason } from './status.js';
import { Store, type FollowHost } from './store.js';
import { Streams } from './streams.js';
import { answerToken } from './token.js';
import { Topics } from './topics.js';
import { connectionError, explain, words } from './verdict.js';

export type * from './contract.js';
export { DatasoleError, ErrorCode } from './errors.js';
export type { DatasoleClientOptions, EmitOptions, RpcOptions, Subscription } from './options.js';
export type { Member, PresenceOptions, Room } from './presence.js';
export type * from './status.js';

/** Clients by their options, see {@link DatasoleClient.reuse}. */
const reused = new Map<string, DatasoleClient<any>>();

/** A host that failed is replaced, unless the one before it failed as recently as this. */
const REPLACE_AFTER_MS = 60_000;

/**
 * RPC, events and live state over one WebSocket.
 *
 * A new client does nothing before {@link connect}. The core runs in a dedicated worker, or on this thread if there are
 * no workers. Values received are shared and must not be changed; a value that did not change keeps its identity,
 * inside as well: `===` tells which parts of a state are new.
 *
 * @example
 * ```ts
 * const client = new DatasoleClient<AppContract>({ url: location.origin });
 * await client.connect();
 * const { sum } = await client.rpc('add', { a: 1, b: 2 });
 * client.on('chat:message', ({ data }) => show(data));
 * client.emit('chat:message', { text: 'hello' });
 * const board = client.subscribeState('dashboard', (value) => render(value));
 * board.unsubscribe();
 * await client.disconnect();
 * ```
 *
 * @typeParam C - The methods, events and states of the server, see `DatasoleContract`.
 */
export class DatasoleClient<C extends ContractShape = Registered> {
  /** For types only. */
  declare readonly __contract?: C;
  /** Vue leaves the client as it is: behind a proxy, its private parts could not be reached. @internal */
  readonly __v_skip = true;
  #options: DatasoleClientOptions;
  readonly #send = (message: ToWorker) => {
    this.#link?.send(message);
    this.traffic?.(message);
  };
  /** Called with what was sent, or has come. @internal */
  declare traffic?: ((what: ToWorker | FromWorker[]) => void) | undefined;
  /** @internal */
  declare readonly calls: Calls;
  readonly #topics: Topics;
  /** @internal */
  declare readonly store: Store;
  /** @internal */
  declare readonly streams: Streams;
  /** Those that are open or in somebody's hands. */
  readonly #rooms = new Kept<Room>();
  /** How far the server's clock is ahead. */
  #ahead = 0;
  readonly #statusHandlers = new Set<(status: Status) => void>();
  #status: Status = { state: 'disconnected', reason: { kind: 'idle', message: 'never connected' } };
  /** The error with which it ended for good, until it is connected anew. @internal */
  declare ended?: DatasoleError;
  #link?: Link;
  #unwatch?: () => void;
  /** The promise of `connect`, while connecting and connected. */
  #opening?: Opening;
  #lastId = 0;
  #lastFailure = -Infinity;
  /** The host was replaced and has not connected yet. */
  #replacing = false;
  /** There was a connection since `connect`; until then calls and events wait for it. */
  #wasOpen = false;
  #connectTimer?: ReturnType<typeof setTimeout>;
  /** The reason why there was no first connection, as it was found out and told. */
  #told?: StatusReason;

  /**
   * The client that this made for the same options before, unless it was disconnected since, else a new one: for modules that a
   * development server evaluates again, and for components that share a connection. Functions among the options do not
   * tell clients apart; the latest are called.
   *
   * @example
   * ```ts
   * export const client = DatasoleClient.reuse({ url: location.origin });
   * client.connect();
   * ```
   */
  static reuse<C extends ContractShape = Registered>(options: DatasoleClientOptions = {}): DatasoleClient<C> {
    const key = JSON.stringify({ ...options, crdtStorage: undefined });
    let client = reused.get(key);
    if (!(client instanceof this)) reused.set(key, (client = new this(options)));
    client.#options = options;
    return client;
  }

  /** Makes a client, without side effects: on a server that renders pages, too. */
  constructor(options: DatasoleClientOptions = {}) {
    this.#options = options;
    const send = this.#send;
    const host: CallHost & FollowHost = {
      send,
      admit: (queue) => {
        this.#need(queue);
        return ++this.#lastId;
      },
      timed: () => this.#link?.ready,
      follow: (kind, key, since) => {
        const id = ++this.#lastId;
        send({ t: 'subscribe', id, kind, key, since });
        return id;
      },
      unasked: () => this.#status.protocol === 1,
      ended: () => this.ended,
    };
    this.streams = new Streams(send);
    this.calls = new Calls(host);
    this.#topics = new Topics(host);
    this.store = new Store(host);
  }

  /**
   * Connects, and keeps trying; resolves once the connection is open. Calls and events wait meanwhile, a call's time-out
   * running. Called again, the same promise; while reconnecting, tries at once.
   *
   * @throws DatasoleError when the server refuses this client for good (token, origin, version), when
   * `maxReconnectAttempts` have failed or `connectTimeout` was given and has passed; the client then stays disconnected.
   */
  connect(): Promise<void> {
    if (this.#opening) return this.#opening.promise;
    const opening = (this.#opening = deferred());
    const first = this.#status.state === 'disconnected';
    if (!this.#link) this.#start();
    this.#send({ t: 'connect' });
    if (first) {
      this.#wasOpen = false;
      const millis = this.#options.connectTimeout;
      if (millis! < Infinity) {
        this.#connectTimer = setTimeout(() => {
          const message = `no connection to ${this.#server} within ${millis} ms`;
          this.#end(localError(Code.Timeout, message, true), { ...this.#status.reason, kind: 'connectTimeout', message });
        }, delay(millis!));
      }
      this.#setStatus({ state: 'connecting' });
    }
    return opening.promise;
  }

  /** Disconnects and stays disconnected; pending calls reject. Subscriptions are kept for the next {@link connect}. */
  async disconnect(): Promise<void> {
    reused.forEach((client, key) => client === this && reused.delete(key));
    // An application that closes the client does not wait for it; other failures are uncaught unless somebody does.
    this.#opening?.promise.catch(() => {});
    const message = 'the client is closed';
    this.#end(localError(Code.Closed, message), { kind: 'closedByUser', message });
  }

  /** The state of the connection; {@link onStatus} has more. */
  getConnectionState(): ConnectionState {
    return this.#status.state;
  }

  /**
   * Calls `handler` at once with the status, then after each change.
   *
   * @returns A function that ends it.
   * @example
   * ```ts
   * client.onStatus(({ state, retryInMs }) => {
   *   banner.textContent = state === 'reconnecting' ? `next attempt in ${retryInMs ?? 0} ms` : '';
   * });
   * ```
   */
  onStatus(handler: (status: Status) => void): () => void {
    return show(this.#statusHandlers, handler, this.#status);
  }

  /**
   * Calls a method.
   *
   * An `ArrayBuffer` or a view as `params` travels as raw bytes, copied at once, and a result may be a `Uint8Array`; both need
   * a server of version 2. A `Blob` is refused.
   *
   * @throws DatasoleError with the server's message, code and data, or with a local code: {@link ErrorCode}.
   * @example
   * ```ts
   * const report = await client.rpc('report', { year: 2026 }, { timeout: 5_000, signal });
   * ```
   */
  rpc<M extends RpcName<C>>(
    method: M,
    ...args: [...params: Args<RpcParams<C, M>>, options?: RpcOptions]
  ): Promise<RpcResult<C, M>>;
  /** For generic functions, which cannot know whether parameters are needed. */
  rpc<M extends RpcName<C>>(method: M, params: RpcParams<C, M>, options?: RpcOptions): Promise<RpcResult<C, M>>;
  rpc(method: string, ...[params, options = {}]: any[]): Promise<any> {
    return this.calls.start(method, params, options);
  }

  /**
   * Calls `handler` for every event of that name, one after the other; one that throws harms no other. The first
   * handler of a name subscribes its topic.
   */
  on<E extends HeardName<C>>(event: E, handler: EventHandler<EventData<C, E>>): void {
    this.#topics.on(event, handler);
  }

  /** Ends {@link on}. The topic of a name is unsubscribed 5 s after its last handler has gone, if there is none again. */
  off<E extends HeardName<C>>(event: E, handler: EventHandler<EventData<C, E>>): void {
    this.#topics.off(event, handler);
  }

  /**
   * Sends an event; an `ArrayBuffer` or a view as raw bytes, to a server of version 2. Delivered at most once.
   *
   * @returns True if the event was sent or waits; once there was a connection, an event without one is dropped unless queued.
   * @throws DatasoleError when the client is not connected nor trying to be, and for a `Blob`.
   */
  emit<E extends SentName<C>>(
    event: E,
    ...args: [...data: Args<EventData<C, E>>, options?: EmitOptions]
  ): boolean;
  /** For generic functions, which cannot know whether data is needed. */
  emit<E extends SentName<C>>(event: E, data: EventData<C, E>, options?: EmitOptions): boolean;
  emit(event: string, ...[data, { queue = false } = {}]: any[]): boolean {
    const encoded = encode(data);
    this.#need(queue);
    const sent = queue || this.#status.state === 'connected' || (!this.#wasOpen && !!this.#opening);
    if (sent) this.#send({ t: 'emit', event, queue, ...encoded });
    return sent;
  }

  /**
   * Calls `handler` with the name of an event topic when events of it were or may have been missed, which happens when
   * a connection was lost and the server could not replay them. Live states repair themselves.
   *
   * @returns A function that ends it.
   */
  onMissed(handler: (event: HeardName<C>) => void): () => void {
    return this.#topics.onMissed(handler as (event: string) => void);
  }

  /**
   * Follows a live state: calls `handler` at once with the current value (`undefined` before any), then after each
   * change, never with half of one, and once for changes that arrive together. 5 s after the last one
   * has unsubscribed a key, it ends on the server as well.
   *
   * @example
   * ```ts
   * const board = client.subscribeState('board', render);
   * console.log(await board.ready);
   * ```
   */
  subscribeState<K extends StateKeyName<C>>(key: K, handler: StateHandler<StateValue<C, K>>): Subscription<StateValue<C, K>> {
    return this.store.subscribe(key, handler as (value: unknown) => void);
  }

  /**
   * The latest value of a live state, or `undefined`. A key without followers is followed from here on, until it has not
   * been read for a minute: its value is available once the server has sent it.
   */
  getState<K extends StateKeyName<C>>(key: K): StateValue<C, K> | undefined {
    return this.store.get(key) as StateValue<C, K> | undefined;
  }

  /** A room: the same object whenever it is asked for. */
  presence<T = never, R extends RoomName<C> = RoomName<C>>(
    room: R,
    options?: PresenceOptions,
  ): Room<[T] extends [never] ? RoomValue<C, R> : T> {
    return this.#rooms.get(room, () => {
      const name = { kind: 'presence', key: room } as const;
      return new Room((stream) => this.streams.open(name, stream, options?.throttle));
    });
  }

  /** The things that replicas of CRDTs need. @internal */
  replicaHost(): ReplicaHost {
    return { streams: this.streams, now: () => Date.now() + this.#ahead, storage: this.#options.crdtStorage };
  }

  /** Something to send to, or an error. */
  #need(queue: boolean): void {
    if (!this.#link) {
      if (!queue) throw localError(Code.NotConnected, 'not connected', true);
      this.#start();
    }
    if (this.#link!.full) throw localError(Code.LocalLimit, 'too much waits for a connection', true);
  }

  /** Starts a core host, and renews all subscriptions on it. */
  #start(): void {
    this.ended = undefined;
    const link = (this.#link = new Link(this.#options, {
      receive: (messages, binaries) => {
        for (const message of messages) {
          // Messages that come after the link has ended are dropped.
          if (this.#link === link) this.#receive(message, binaries);
        }
        this.store.settle();
        this.traffic?.(messages);
      },
      retrying: (status) => this.#retrying(status),
      failed: (error) => this.#link === link && this.#failed(error),
    }));
    try {
      // Bundlers put a text in its place.
      if (process.env.NODE_ENV === 'development') showClient(this);
    } catch {
      // No bundler, no Node.
    }
    this.#unwatch = watchPage((kind) => this.#send({ t: 'hint', kind }));
    this.store.renew();
    this.#topics.renew();
    this.streams.renew();
  }

  /** Ends the host and all that waits for it. */
  #end(error: DatasoleError, reason: StatusReason): void {
    const opening = this.#opening;
    this.ended = error;
    this.#opening = undefined;
    this.#replacing = false;
    this.#told = undefined;
    clearTimeout(this.#connectTimer);
    this.#unlink();
    this.calls.reject(error);
    this.#setStatus({ state: 'disconnected', reason });
    try {
      if (process.env.NODE_ENV === 'development') hideClient(this);
    } catch {
      // As above.
    }
    if (opening) opening.reject(error);
    else if (reason.kind !== 'closedByUser') this.#tell(reason);
  }

  #unlink(): void {
    this.#unwatch?.();
    this.#link?.close();
    this.#unwatch = this.#link = undefined;
  }

  #failed(error: DatasoleError): void {
    const reason: StatusReason = { kind: 'host', message: error.message };
    const now = Date.now();
    if (!this.#wasOpen || this.#replacing || now - this.#lastFailure < REPLACE_AFTER_MS) {
      return this.#end(error, reason);
    }
    this.#lastFailure = now;
    report(error);
    if (this.#status.state === 'connected') this.#opening = undefined;
    this.#unlink();
    this.calls.reject(error);
    this.#replacing = true;
    this.#start();
    this.#send({ t: 'connect' });
    this.#setStatus({ state: 'reconnecting', reason });
  }

  #receive(message: FromWorker, binaries: Uint8Array[]): void {
    switch (message.t) {
      case 'done':
        return this.calls.done(message, binaries);
      case 'event':
        // In order: first what changed before the event.
        this.store.settle();
        return this.#topics.event(message, binaries);
      case 'patch':
        return this.store.patch(message.key, message.rev, message.ops);
      case 'snapshot':
        return this.store.snapshot(message.key, message.rev, message.value, message.old);
      case 'status':
        this.store.settle();
        return this.#statusArrived(message);
      case 'subscribed':
        return (message.kind === 'state' ? this.store : this.#topics).subscribed(message.key, message.recovered);
      case 'left':
        return (message.kind === 'state' ? this.store : this.#topics).left(message.key);
      case 'refused': {
        const { what, name, error } = message;
        const refusal = errorOf(`${what} ${name}`, error);
        const told = what !== 'emit' && (what === 'state' ? this.store : this.#topics).refused(name, refusal);
        return void (told || report(refusal));
      }
      case 'token':
        return void answerToken(this.#link!, this.#options);
      default:
        // The handshake's messages never come here.
        return this.streams.receive(message as StreamMessage, binaries);
    }
  }

  #statusArrived({ t: _, ...status }: Status & { t: 'status' }): void {
    switch (status.state) {
      case 'connected':
        this.#replacing = false;
        this.#told = undefined;
        this.#wasOpen = true;
        clearTimeout(this.#connectTimer);
        this.#opening ??= deferred();
        if (status.serverTime) this.#ahead = status.serverTime - Date.now();
        // Whoever is let in now may have another token.
        this.store.renew(true);
        this.#setStatus(status);
        this.#topics.renew(true);
        return this.#opening?.resolve();
      case 'disconnected': {
        const reason = this.#known(status.reason!);
        return this.#end(connectionError(reason), reason);
      }
      case 'connecting':
        if (this.#replacing) return;
        break;
      case 'reconnecting':
        // The next `connect` is answered by the next connection.
        if (this.#status.state === 'connected') this.#opening = undefined;
        return this.#retrying(status);
    }
    this.#setStatus(status);
  }

  /** Shows that there is no connection; before the first one, finds out why, once, and tells it. */
  #retrying(status: Status): void {
    const reason = status.reason && this.#known(status.reason);
    const shown = { ...status, reason };
    this.#setStatus(shown);
    if (this.#wasOpen || !reason || this.#told) return;
    this.#told = reason;
    void explain(this.#options, reason).then((found) => {
      // It may have connected, or ended, meanwhile.
      if (this.#told !== reason) return;
      this.#told = found;
      if (this.#status === shown) this.#setStatus({ ...shown, reason: found });
      this.#tell(found);
    });
  }

  /** A reason, or what was found out about the same close code before. */
  #known(reason: StatusReason): StatusReason {
    return reason.code && this.#told?.code === reason.code ? this.#told : reason;
  }

  /** The server, for people. */
  get #server(): string {
    return `${this.#options.url ?? 'this server'}`;
  }

  /** Where nobody listens, the console is told. */
  #tell(reason: StatusReason): void {
    if (!this.#statusHandlers.size) console.error(`datasole: no connection to ${this.#server}: ${words(reason)}`);
  }

  #setStatus(status: Status): void {
    if (status.state === this.#status.state && status.state === 'connecting') return;
    this.#status = status;
    call(this.#statusHandlers, status);
    this.store.connected(status.state === 'connected');
  }
}
