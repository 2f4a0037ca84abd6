/**
 * The client for browsers and Node: {@link DatasoleClient}.
 *
 * @packageDocumentation
 */
import { copyBytes } from './bytes.js';
import type {
  ContractShape,
  DatasoleContract,
  EventData,
  EventName,
  EventPayload,
  RpcName,
  RpcParams,
  RpcResult,
  StateKeyName,
  StateValue,
} from './contract.js';
import { byKey, CrdtStore, type Crdts } from './crdt/store.js';
import { DatasoleError, ErrorCode, localError, report } from './errors.js';
import { call, guarded, listen } from './handlers.js';
import { delay, watchPage } from './lifecycle.js';
import { Link } from './link.js';
import { resolve, type DatasoleClientOptions, type Global } from './options.js';
import { Room, type PresenceOptions } from './presence.js';
import type { Encoded, FollowedKind, FromWorker, ToWorker } from './protocol.js';
import type { ConnectionState, Status, StatusReason } from './status.js';
import { LINGER_MS, Store } from './store.js';
import { Streams, type Stream } from './streams.js';

export type * from './contract.js';
export * from './crdt/index.js';
export { DatasoleError, ErrorCode } from './errors.js';
export type { DatasoleClientOptions } from './options.js';
export type { Member, PresenceOptions, Room } from './presence.js';
export type * from './status.js';

/** Options of a call. */
export interface RpcOptions {
  /** Its deadline in milliseconds. Default 30,000. */
  timeout?: number;
  /** Cancels the call; the promise rejects with {@link ErrorCode.Cancelled} and the signal's reason as `cause`. */
  signal?: Global<'AbortSignal'>;
  /** Wait for a connection instead of being refused without one; the deadline runs meanwhile. Default `false`. */
  queue?: boolean;
}

/** Options of an event. */
export interface EmitOptions {
  /** Wait for a connection instead of being dropped without one. Default `false`. */
  queue?: boolean;
}

/** Ends a subscription. */
export interface Subscription {
  unsubscribe(): void;
}

/** A handler of events. */
export type EventHandler<T> = { bivariant(payload: EventPayload<T>): void }['bivariant'];

/** A handler of a state's values; `undefined` before any, and when the key does not exist. */
export type StateHandler<T> = { bivariant(value: T | undefined): void }['bivariant'];

interface Call {
  resolve(value: unknown): void;
  reject(error: DatasoleError): void;
}

interface Opening {
  promise: Promise<void>;
  resolve(): void;
  reject(error: DatasoleError): void;
}

interface Topic {
  /** The subscription; 0 once it was refused. */
  id: number;
  handlers: Set<EventHandler<unknown>>;
  /** Events may have been missed. */
  followed: boolean;
}

/** Set by `npm/build.mjs`: whether CRDTs are in this script. */
declare const CRDTS: boolean;
/** Whether this is a script for pages without modules. */
declare const IIFE: boolean;

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
 * @typeParam C - The methods, events and states of the server, see {@link DatasoleContract}.
 */
export class DatasoleClient<C extends ContractShape = DatasoleContract> {
  readonly #options: DatasoleClientOptions;
  readonly #calls = new Map<number, Call>();
  readonly #topics = new Map<string, Topic>();
  readonly #store: Store;
  /** @internal */
  readonly streams: Streams;
  readonly #rooms = new Map<string, Room>();
  #crdts?: CrdtStore;
  /** How far the server's clock is ahead. */
  #ahead = 0;
  readonly #statusHandlers = new Set<(status: Status) => void>();
  readonly #missedHandlers = new Set<(event: string) => void>();
  #status: Status = { state: 'disconnected', reason: { kind: 'idle', message: 'never connected' } };
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
  /** The lack of a connection was told on the console. */
  #told = false;

  /** Makes a client, without side effects. */
  constructor(options: DatasoleClientOptions) {
    this.#options = options;
    this.streams = new Streams((message) => this.#send(message));
    this.#store = new Store({
      subscribe: (key) => this.#subscribe('state', key),
      unsubscribe: (id, linger) => this.#send({ t: 'unsubscribe', id, linger }),
      resync: (key, applied) => this.#send({ t: 'resync', key, applied }),
      unasked: () => this.#status.protocol === 1,
    });
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
    // Starting may have failed at once.
    if (this.#opening === opening) this.#send({ t: 'connect' });
    if (first) {
      this.#wasOpen = false;
      const millis = this.#options.connectTimeout;
      if (millis !== undefined && millis < Infinity) {
        this.#connectTimer = setTimeout(() => {
          const message = `no connection to ${this.#options.url} within ${millis} ms`;
          this.#end(localError(ErrorCode.Timeout, message, true), { ...this.#status.reason, kind: 'connectTimeout', message });
        }, delay(millis));
      }
      this.#setStatus({ state: 'connecting' });
    }
    return opening.promise;
  }

  /** Disconnects and stays disconnected; pending calls reject. Subscriptions are kept for the next {@link connect}. */
  async disconnect(): Promise<void> {
    const message = 'the client is closed';
    this.#end(localError(ErrorCode.Closed, message), { kind: 'closedByUser', message });
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
    const stop = listen(this.#statusHandlers, handler);
    guarded(() => handler(this.#status));
    return stop;
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
  rpc<M extends RpcName<C>>(method: M, params?: RpcParams<C, M>, options: RpcOptions = {}): Promise<RpcResult<C, M>> {
    return new Promise((resolve, reject) => {
      const { timeout, signal, queue = false } = options;
      const cancelled = () => localError(ErrorCode.Cancelled, `${method} was cancelled`, false, signal?.reason);
      if (signal?.aborted) throw cancelled();
      const encoded = encode(params);
      this.#need(queue);
      const id = ++this.#lastId;
      const giveUp = (error: DatasoleError) => {
        this.#calls.delete(id);
        this.#send({ t: 'cancel', id });
        settled(reject)(error);
      };
      const abort = () => giveUp(cancelled());
      let timer: ReturnType<typeof setTimeout> | undefined;
      signal?.addEventListener('abort', abort, { once: true });
      const settled = <T>(settle: (value: T) => void) => (value: T) => {
        signal?.removeEventListener('abort', abort);
        clearTimeout(timer);
        settle(value);
      };
      if (!this.#link?.ready) {
        // The core keeps the time of calls, once there is one.
        const millis = timeout ?? 30_000;
        const late = () => giveUp(localError(ErrorCode.Timeout, `RPC timeout: ${method} (${millis}ms)`, true));
        timer = setTimeout(late, delay(millis));
      }
      this.#calls.set(id, { resolve: settled(resolve as (value: unknown) => void), reject: settled(reject) });
      this.#send({ t: 'call', id, method, timeout, queue, ...encoded });
    });
  }

  /**
   * Calls `handler` for every event of that name, one after the other; one that throws harms no other. The first
   * handler of a name subscribes its topic.
   */
  on<E extends EventName<C>>(event: E, handler: EventHandler<EventData<C, E>>): void {
    let topic = this.#topics.get(event);
    if (!topic) this.#topics.set(event, (topic = { id: 0, handlers: new Set(), followed: false }));
    topic.id ||= this.#subscribe('event', event);
    topic.handlers.add(handler);
  }

  /** Ends {@link on}. The topic of a name is unsubscribed 5 s after its last handler has gone, if there is none again. */
  off<E extends EventName<C>>(event: E, handler: EventHandler<EventData<C, E>>): void {
    const topic = this.#topics.get(event);
    if (topic?.handlers.delete(handler) && !topic.handlers.size) {
      if (!topic.id) this.#topics.delete(event);
      this.#send({ t: 'unsubscribe', id: topic.id, linger: LINGER_MS });
      topic.id = 0;
    }
  }

  /**
   * Sends an event; an `ArrayBuffer` or a view as raw bytes, to a server of version 2. Delivered at most once.
   *
   * @returns True if the event was sent or waits; once there was a connection, an event without one is dropped unless queued.
   * @throws DatasoleError when the client is not connected nor trying to be, and for a `Blob`.
   */
  emit<E extends EventName<C>>(event: E, data?: EventData<C, E>, { queue = false }: EmitOptions = {}): boolean {
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
  onMissed(handler: (event: EventName<C>) => void): () => void {
    return listen(this.#missedHandlers, handler as (event: string) => void);
  }

  /**
   * Follows a live state: calls `handler` at once with the current value (`undefined` before any), then after each
   * change, never with half of one, and once for changes that arrive together. 5 s after the last one
   * has unsubscribed a key, it ends on the server as well.
   */
  subscribeState<K extends StateKeyName<C>>(key: K, handler: StateHandler<StateValue<C, K>>): Subscription {
    return this.#store.subscribe(key, handler as (value: unknown) => void);
  }

  /**
   * The latest value of a live state, or `undefined`. A key without followers is followed from here on, until it has not
   * been read for a minute: its value is available once the server has sent it.
   */
  getState<K extends StateKeyName<C>>(key: K): StateValue<C, K> | undefined {
    return this.#store.get(key) as StateValue<C, K> | undefined;
  }

  /**
   * CRDTs: values that change at once, with or without a connection, and end the same everywhere.
   *
   * @example
   * ```ts
   * const votes = client.crdt.counter('votes');
   * votes.subscribe((count) => (label.textContent = String(count)));
   * votes.increment();
   * ```
   */
  get crdt(): Crdts {
    return byKey(this.registerCrdt('web'));
  }

  /** The CRDTs, as a store; made once. Replicas are called `name` and something random, so that no two are the same. */
  registerCrdt(name: string): CrdtStore {
    if (!CRDTS) throw new Error('datasole.slim.iife.min.js has no CRDTs: load datasole.iife.min.js');
    else {
      const now = () => Date.now() + this.#ahead;
      const { streams } = this;
      return (this.#crdts ??= new CrdtStore(name, { streams, now, storage: this.#options.crdtStorage }));
    }
  }

  /** The CRDTs of {@link registerCrdt}. */
  getCrdtStore(): CrdtStore | undefined {
    return this.#crdts;
  }

  /** A room: the same object whenever it is asked for. */
  presence<T = any>(room: string, options?: PresenceOptions): Room<T> {
    let found = this.#rooms.get(room);
    if (!found) {
      const name = { kind: 'presence', key: room } as const;
      const open = (stream: Stream) => this.streams.open(name, stream, options?.throttle);
      this.#rooms.set(room, (found = new Room(open, () => this.#status.connectionId)));
    }
    return found;
  }

  /** Something to send to, or an error. */
  #need(queue: boolean): void {
    if (!this.#link) {
      if (!queue) throw localError(ErrorCode.NotConnected, 'not connected', true);
      this.#start();
    }
    if (this.#link?.full) throw localError(ErrorCode.LocalLimit, 'too much waits for a connection', true);
  }

  /** Starts a core host, and renews all subscriptions on it. */
  #start(): void {
    let link: Link;
    try {
      link = new Link(resolve(this.#options), {
        receive: (messages, binaries) => {
          for (const message of messages) {
            // Messages that come after the link has ended are dropped.
            if (this.#link === link) this.#receive(message, binaries);
          }
          this.#store.settle();
        },
        retrying: (status) => this.#retrying(status),
        failed: (error) => this.#failed(error),
      });
    } catch (error) {
      const message = String(error);
      return this.#end(localError(ErrorCode.Host, message, false, error), { kind: 'host', message });
    }
    this.#link = link;
    this.#unwatch = watchPage((kind) => this.#send({ t: 'hint', kind }));
    this.#store.renew();
    this.#renewTopics();
    this.streams.renew();
  }

  /** Ends the host and all that waits for it. */
  #end(error: DatasoleError, reason: StatusReason): void {
    const opening = this.#opening;
    this.#opening = undefined;
    this.#replacing = this.#told = false;
    clearTimeout(this.#connectTimer);
    this.#unlink();
    this.#rejectCalls(error);
    this.#setStatus({ state: 'disconnected', reason });
    // An application that closes the client does not wait for it; other failures are uncaught unless somebody does.
    if (reason.kind === 'closedByUser') opening?.promise.catch(() => {});
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
    const { state } = this.#status;
    const now = Date.now();
    if (!this.#wasOpen || this.#replacing || now - this.#lastFailure < REPLACE_AFTER_MS) {
      return this.#end(error, reason);
    }
    this.#lastFailure = now;
    report(error);
    if (state === 'connected') this.#opening = undefined;
    this.#unlink();
    this.#rejectCalls(error);
    this.#replacing = true;
    this.#start();
    this.#send({ t: 'connect' });
    this.#setStatus({ state: 'reconnecting', reason });
  }

  #rejectCalls(error: DatasoleError): void {
    const calls = [...this.#calls.values()];
    this.#calls.clear();
    for (const call of calls) call.reject(error);
  }

  #receive(message: FromWorker, binaries: Uint8Array[]): void {
    switch (message.t) {
      case 'done': {
        const call = this.#calls.get(message.id);
        this.#calls.delete(message.id);
        if (message.error) call?.reject(new DatasoleError(message.error));
        else call?.resolve(message.bin === undefined ? message.value : binaries[message.bin]);
        return;
      }
      case 'event': {
        const { event, data, bin, timestamp } = message;
        const topic = this.#topics.get(event);
        if (!topic) return;
        // In order: first what changed before the event.
        this.#store.settle();
        return call(topic.handlers, { event, data: bin === undefined ? data : binaries[bin], timestamp });
      }
      case 'patch':
        return this.#store.patch(message.key, message.rev, message.ops);
      case 'snapshot':
        return this.#store.snapshot(message.key, message.rev, message.value);
      case 'status':
        this.#store.settle();
        return this.#statusArrived(message);
      case 'subscribed': {
        const topic = message.kind === 'event' && this.#topics.get(message.key);
        if (!topic) return;
        if (topic.followed && !message.recovered) call(this.#missedHandlers, message.key);
        topic.followed = true;
        return;
      }
      case 'left':
        if (message.kind === 'state') return this.#store.left(message.key);
        if (this.#topics.get(message.key)?.handlers.size) this.#topics.get(message.key)!.followed = false;
        else this.#topics.delete(message.key);
        return;
      case 'refused': {
        const { what, name, error } = message;
        if (what === 'state') this.#store.refused(name);
        const topic = what === 'event' && this.#topics.get(name);
        if (topic) topic.id = 0;
        return report(new DatasoleError({ ...error, message: `${what} ${name}: ${error.message}` }));
      }
      case 'token':
        return void this.#answerToken();
      case 'entry':
      case 'settled':
      case 'progress':
      case 'rejected':
      case 'ask':
      case 'awareness':
        return this.streams.receive(message, binaries);
    }
  }

  #statusArrived({ t: _, ...status }: Status & { t: 'status' }): void {
    switch (status.state) {
      case 'connected':
        this.#replacing = this.#told = false;
        this.#wasOpen = true;
        clearTimeout(this.#connectTimer);
        this.#opening ??= deferred();
        if (status.serverTime) this.#ahead = status.serverTime - Date.now();
        this.#setStatus(status);
        this.#renewTopics(true);
        return this.#opening?.resolve();
      case 'disconnected': {
        const reason = status.reason ?? { kind: 'unknown', message: '' };
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

  /** Shows that there is no connection; before the first one, finds out why and tells it. */
  #retrying(status: Status): void {
    this.#setStatus(status);
    const { reason } = status;
    if (this.#wasOpen || !reason || this.#told) return;
    this.#told = true;
    void explain(this.#options, reason).then((explained) => {
      if (this.#status === status) this.#setStatus({ ...status, reason: explained });
      this.#tell(explained);
    });
  }

  /** Where nobody listens, the console is told. */
  #tell({ message, hint }: StatusReason): void {
    if (!this.#statusHandlers.size) console.error(`datasole: no connection to ${this.#options.url}: ${message}${hint ? `; ${hint}` : ''}`);
  }

  async #answerToken(): Promise<void> {
    const link = this.#link;
    try {
      const token = await this.#options.getToken?.();
      link?.send({ t: 'token', token });
    } catch (error) {
      link?.send({ t: 'token', error: error instanceof Error ? error.message : String(error) });
    }
  }

  #setStatus(status: Status): void {
    if (status.state === this.#status.state && status.state === 'connecting') return;
    this.#status = status;
    call(this.#statusHandlers, status);
  }

  /** Subscribes all topics on a new core; on a new connection, those that were `refused`. */
  #renewTopics(refused = false): void {
    for (const [event, topic] of this.#topics) {
      if (!topic.handlers.size) continue;
      if (!refused || !topic.id) topic.id = this.#subscribe('event', event);
    }
  }

  /** Follows now, or when a host starts. */
  #subscribe(kind: FollowedKind, key: string): number {
    const id = ++this.#lastId;
    this.#send({ t: 'subscribe', id, kind, key });
    return id;
  }

  #send(message: ToWorker): void {
    this.#link?.send(message);
  }
}

function encode(value: unknown): Encoded {
  const bytes = copyBytes(value);
  return bytes ? { bytes } : { json: JSON.stringify(value) };
}

/** The reason in more words, from a script that is loaded only for that. */
async function explain(options: DatasoleClientOptions, reason: StatusReason): Promise<StatusReason> {
  try {
    const { core, workerUrl } = resolve(options);
    const url = new URL('datasole-probe.mjs', workerUrl).href;
    const probe: typeof import('./probe.js') = IIFE
      ? await import(/* webpackIgnore: true */ /* @vite-ignore */ url)
      : await import('./probe.js');
    return await probe.explain(core.url, reason);
  } catch {
    return reason;
  }
}

/** The error of `connect`, and of calls that waited for a connection. */
function connectionError({ kind, message, code, httpStatus, hint }: StatusReason): DatasoleError {
  const [number, retryable] =
    kind === 'unauthorized'
      ? [ErrorCode.Unauthorized, false]
      : kind === 'connectTimeout'
        ? [ErrorCode.Timeout, true]
        : kind === 'protocol'
          ? [ErrorCode.InvalidRequest, false]
          : [ErrorCode.NotConnected, true];
  const details = [kind, code ?? httpStatus, message, hint].filter(Boolean).join(', ');
  return localError(number, `no connection: ${details}`, retryable);
}

function deferred(): Opening {
  let resolve!: () => void;
  let reject!: (error: DatasoleError) => void;
  const promise = new Promise<void>((...settle) => ([resolve, reject] = settle));
  return { promise, resolve, reject };
}
