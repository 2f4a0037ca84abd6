/**
 * Hooks for React 18.2 and later: {@link DatasoleProvider}, {@link useLiveState} and the others.
 *
 * They have the types of the contract that has registered itself; {@link createHooks} makes those of another one. On a server that
 * renders pages nothing connects: states are `loading`, or what `initial` says.
 *
 * @packageDocumentation
 */
import {
  createContext,
  createElement,
  useCallback,
  useContext,
  useEffect,
  useInsertionEffect,
  useMemo,
  useRef,
  useState,
  useSyncExternalStore,
  type Context,
  type ReactElement,
  type ReactNode,
} from 'react';
import { DatasoleClient } from './client.js';
import type {
  Args,
  ContractShape,
  EventData,
  EventPayload,
  HeardName,
  Registered,
  RoomName,
  RoomValue,
  RpcErrorData,
  RpcName,
  RpcParams,
  RpcResult,
  StateKeyName,
  StateValue,
} from './contract.js';
import type { CrdtClasses } from './crdt/index.js';
import type { DatasoleError } from './errors.js';
import {
  connection,
  constant,
  guardUnload,
  IDLE,
  live,
  lost,
  me,
  LOADING,
  others,
  part,
  pendings,
  ready,
  rendered,
  replica,
  same,
  seed,
  selection,
  SETTLED,
  type CrdtItem,
  type CrdtKind,
  type CrdtName,
  type Initial,
  type Live,
  type LiveStateOptions,
  type MutationOptions,
  type Pending,
  type Readable,
  type ReplicaState,
} from './live.js';
import type { DatasoleClientOptions, RpcOptions } from './options.js';
import type { Member } from './presence.js';
import type { DatasoleClient as AnyClient } from './slim.js';
import type { Status } from './status.js';

export type { DatasoleError, Initial, Live, LiveStateOptions, Member, MutationOptions, Pending, ReplicaState, Status };

/** Either a client, or the options of one that the provider makes, connects and disconnects. */
export type DatasoleProviderProps =
  | { client: AnyClient<any>; options?: undefined; children?: ReactNode }
  | { options: DatasoleClientOptions; client?: undefined; children?: ReactNode };

/** The outcome of {@link useMutation}. */
export interface Mutation<P, R, E = unknown> {
  /** Calls the method: always the same function. The promise may be left alone: what it rejects with is also the `error`. */
  run: (...args: Args<P>) => Promise<R>;
  /** True while a call is under way. */
  pending: boolean;
  /** The result of the last call, once it has one. */
  data: R | undefined;
  /** The error of the last call, if it failed. */
  error: (DatasoleError & { data?: E }) | undefined;
  /** Forgets `data` and `error`. */
  reset: () => void;
}

/** The hooks for a contract. */
export interface Hooks<C extends ContractShape> {
  /** The client for all below. One that was never connected is. */
  DatasoleProvider: (props: { client: AnyClient<any>; children?: ReactNode }) => ReactElement;

  /** The client. */
  useClient: () => DatasoleClient<C>;

  /**
   * A live state, or what `select` makes of its value; rendered again only when that changes. `loading` for the key `null`.
   *
   * @example
   * ```tsx
   * const { status, data, stale } = useLiveState('board', (board) => board.title);
   * ```
   */
  useLiveState: <K extends StateKeyName<C>, S = StateValue<C, K>>(
    key: K | null,
    select?: (value: StateValue<C, K>) => S,
    options?: LiveStateOptions<StateValue<C, K>, S>,
  ) => Live<S>;

  /**
   * The value of a live state; suspends until it is known, and throws the error when it is refused. `undefined` when there is no such
   * state.
   */
  useSuspenseLiveState: <K extends StateKeyName<C>, S = StateValue<C, K>>(
    key: K,
    select?: (value: StateValue<C, K>) => S,
    options?: LiveStateOptions<StateValue<C, K>, S>,
  ) => S | undefined;

  /** Calls the handler of the last render for every event of a name; none for `null`. `onMissed`: events may have been missed. */
  useEvent: <E extends HeardName<C>>(
    name: E | null,
    handler: (payload: EventPayload<EventData<C, E>>) => void,
    options?: { onMissed?: () => void },
  ) => void;

  /** A function that calls a method; always the same one. */
  useRpc: <M extends RpcName<C>>(
    method: M,
  ) => (...args: [...params: Args<RpcParams<C, M>>, options?: RpcOptions]) => Promise<RpcResult<C, M>>;

  /** A method, and how its last call went. */
  useMutation: <M extends RpcName<C>>(
    method: M,
    options?: MutationOptions<RpcParams<C, M>, RpcResult<C, M>>,
  ) => Mutation<RpcParams<C, M>, RpcResult<C, M>, RpcErrorData<C, M>>;

  /** The members of a room but for this client, or what `select` makes of them. None for `null`. */
  useMembers: <R extends RoomName<C>, S = readonly Member<RoomValue<C, R>>[]>(
    room: R | null,
    select?: (others: readonly Member<RoomValue<C, R>>[]) => S,
    options?: { equals?: (a: S, b: S) => boolean },
  ) => S;

  /** Joins a room as long as it is mounted: this client's value there, and a function that changes members of it. */
  useMyPresence: <R extends RoomName<C>>(
    room: R,
    initial: RoomValue<C, R>,
  ) => [value: RoomValue<C, R>, update: (patch: Partial<RoomValue<C, R>>) => void];

  /** A CRDT, its value, and what is pending of it. `initial`: what a register shows until it is written. */
  useCrdt: <K extends CrdtName<C>, T extends CrdtKind<C, K>>(
    key: K,
    type: T,
    initial?: CrdtItem<C, K>,
  ) => ReplicaState<ReturnType<CrdtClasses<CrdtItem<C, K>>[T]['value']>, CrdtClasses<CrdtItem<C, K>>[T]>;

  /** The connection; `lost` once there has been none for `lostAfter` milliseconds. Default 5,000. */
  useConnection: (options?: { lostAfter?: number }) => Status & { lost: boolean };

  /** The number of calls, operations and changes that are not settled. */
  usePending: () => Pending;

  /** The browser asks before the page is left while something is not settled. Renders nothing. */
  useUnloadGuard: (enabled?: boolean) => void;
}

/** The hooks for a contract that has not registered itself, with a provider of their own. For programs with several servers. */
export function createHooks<C extends ContractShape>(): Hooks<C> {
  return hooksOf(createContext<AnyClient<any> | undefined>(undefined));
}

/** The context of the hooks, for a client without CRDTs (`datasole/slim`): the provider carries the one with them. */
export const DatasoleContext: Context<AnyClient<any> | undefined> = /* @__PURE__ */ createContext<AnyClient<any> | undefined>(
  undefined,
);

const hooks: Hooks<Registered> = /* @__PURE__ */ hooksOf(DatasoleContext);

/**
 * The client for all hooks below: one that is given, connected unless it has ever been; or one made of options, the same for
 * the same options (`DatasoleClient.reuse`), which is disconnected a second after its last provider has gone.
 *
 * @example
 * ```tsx
 * createRoot(root).render(<DatasoleProvider options={{ url: location.origin }}><App /></DatasoleProvider>);
 * ```
 */
export function DatasoleProvider({ client, options, children }: DatasoleProviderProps): ReactElement {
  const latest = useLatest(options);
  // Not anew at each render: the application may have disconnected it.
  const made = useMemo(() => {
    if (!options) return undefined;
    // A server makes one for each page: it never connects.
    return ON_SERVER ? new DatasoleClient(options) : DatasoleClient.reuse(withLatest(options, latest));
  }, [options && JSON.stringify({ ...options, crdtStorage: undefined })]);
  useEffect(() => made && hold(made), [made]);
  return useProvided(DatasoleContext, made ?? client!, children);
}

/** See {@link Hooks.useClient}. */
export const useClient: Hooks<Registered>['useClient'] = hooks.useClient;
/** See {@link Hooks.useLiveState}. */
export const useLiveState: Hooks<Registered>['useLiveState'] = hooks.useLiveState;
/** See {@link Hooks.useSuspenseLiveState}. */
export const useSuspenseLiveState: Hooks<Registered>['useSuspenseLiveState'] = hooks.useSuspenseLiveState;
/** See {@link Hooks.useEvent}. */
export const useEvent: Hooks<Registered>['useEvent'] = hooks.useEvent;
/** See {@link Hooks.useRpc}. */
export const useRpc: Hooks<Registered>['useRpc'] = hooks.useRpc;
/** See {@link Hooks.useMutation}. */
export const useMutation: Hooks<Registered>['useMutation'] = hooks.useMutation;
/** See {@link Hooks.useMembers}. */
export const useMembers: Hooks<Registered>['useMembers'] = hooks.useMembers;
/** See {@link Hooks.useMyPresence}. */
export const useMyPresence: Hooks<Registered>['useMyPresence'] = hooks.useMyPresence;
/** See {@link Hooks.useCrdt}. */
export const useCrdt: Hooks<Registered>['useCrdt'] = hooks.useCrdt;
/** See {@link Hooks.useConnection}. */
export const useConnection: Hooks<Registered>['useConnection'] = hooks.useConnection;
/** See {@link Hooks.usePending}. */
export const usePending: Hooks<Registered>['usePending'] = hooks.usePending;
/** See {@link Hooks.useUnloadGuard}. */
export const useUnloadGuard: Hooks<Registered>['useUnloadGuard'] = hooks.useUnloadGuard;

function hooksOf<C extends ContractShape>(context: Context<AnyClient<any> | undefined>): Hooks<C> {
  const useClient = (): DatasoleClient<any> => {
    const client = useContext(context);
    if (!client) throw new Error('datasole: there is no DatasoleProvider above this component');
    return client as DatasoleClient<any>;
  };
  return {
    DatasoleProvider: ({ client, children }) => useProvided(context, client, children),
    useClient,
    useLiveState: (key: string | null, select?: (value: any) => any, options: LiveStateOptions<any> = {}) =>
      useLive(useClient(), key, select, options),
    useSuspenseLiveState: (key: string, select?: (value: any) => any, options: LiveStateOptions<any> = {}) => {
      const client = useClient();
      awaited(client, key, options.initial);
      return useLive(client, key, select, options).data;
    },
    useEvent: (name: any, handler: (payload: any) => void, { onMissed }: { onMissed?: () => void } = {}) => {
      const client = useClient();
      const latest = useLatest({ handler, onMissed });
      useEffect(() => {
        if (name === null) return;
        const heard = (payload: unknown) => latest.current.handler(payload);
        client.on(name, heard);
        const end = client.onMissed((event) => event === name && latest.current.onMissed?.());
        return () => (client.off(name, heard), end());
      }, [client, name]);
    },
    useRpc: (method: any) => {
      const client = useClient();
      return useCallback((...args: any[]) => client.rpc(method, ...args), [client, method]);
    },
    useMutation: (method: any, options: MutationOptions<any, any> = {}) => useCall(useClient(), method, options),
    useMembers: (room: string | null, select: (others: any) => any = itself, { equals = Object.is } = {}) => {
      const client = useClient();
      const readable = useMemo(() => (room === null ? NOBODY : others(client.presence(room))), [client, room]);
      return useSelection(readable, select, equals, NO_MEMBERS);
    },
    useMyPresence: (room: string, initial: any) => {
      const client = useClient();
      const own = useMemo(() => me<any>(client.presence(room)), [client, room]);
      const first = useLatest(initial);
      useEffect(() => own.enter(first.current), [own]);
      const value = useSyncExternalStore(own.subscribe, own.getSnapshot, nothing);
      return [value === undefined ? initial : value, own.update];
    },
    useCrdt: (key: string, type: any, initial?: any) => {
      const client = useClient();
      const readable = useMemo(() => replica(client, key, type, initial), [client, key, type]);
      return useReadable(readable) as any;
    },
    useConnection: ({ lostAfter }: { lostAfter?: number } = {}) => {
      const client = useClient();
      const status = useReadable(connection(client), IDLE);
      const gone = useReadable(useMemo(() => lost(client, lostAfter), [client, lostAfter]));
      return useMemo(() => ({ ...status, lost: gone }), [status, gone]);
    },
    usePending: () => useReadable(pendings(useClient()), SETTLED),
    useUnloadGuard: (enabled = true) => {
      const client = useClient();
      useEffect(() => (enabled ? guardUnload(client) : undefined), [client, enabled]);
    },
  };
}

const ON_SERVER = typeof window === 'undefined';
const NO_MEMBERS: readonly Member[] = [];
const NOBODY = constant(NO_MEMBERS);
const NOTHING = constant<Live<any>>(LOADING);
const nothing = () => undefined;
const itself = <T>(value: T): T => value;

/** Gives a client to the hooks of a context. */
function useProvided(context: Context<AnyClient<any> | undefined>, client: AnyClient<any>, children: ReactNode): ReactElement {
  useEffect(() => {
    // An application that connects a client, or has disconnected it, knows why.
    if (connection(client).getSnapshot().reason?.kind === 'idle') void client.connect();
  }, [client]);
  return createElement(context.Provider, { value: client }, children);
}

/** Options whose functions are those of the latest render. */
function withLatest(options: DatasoleClientOptions, latest: { current: DatasoleClientOptions | undefined }): DatasoleClientOptions {
  const now = (name: string) => (...args: unknown[]) => (latest.current as Record<string, any>)[name]?.(...args);
  return Object.fromEntries(Object.entries(options).map(([name, value]) => [name, typeof value === 'function' ? now(name) : value]));
}

interface Held {
  /** How many providers hold the client. */
  count: number;
  /** The client was connected, or disconnected, here. */
  connected?: boolean;
  ended?: boolean;
  end?: ReturnType<typeof setTimeout>;
}

/** Clients that were made of options. */
const holders = new WeakMap<object, Held>();
/** Trees are mounted anew in development, and when routes change. */
const HOLD_MS = 1_000;

/** Connects a client; one that was connected here is disconnected when all have let it go. */
function hold(client: DatasoleClient<any>): () => void {
  const held = holders.get(client) ?? { count: 0 };
  holders.set(client, held);
  held.count++;
  clearTimeout(held.end);
  const { state, reason } = connection(client).getSnapshot();
  // One that the application has disconnected stays so.
  if (state === 'disconnected' && (held.ended || reason?.kind !== 'closedByUser')) {
    held.connected = true;
    held.ended = false;
    void client.connect();
  }
  return () => {
    if (--held.count || !held.connected) return;
    held.end = setTimeout(() => {
      held.ended = client.getConnectionState() !== 'disconnected';
      void client.disconnect();
    }, HOLD_MS);
  };
}

function useLatest<T>(value: T): { current: T } {
  const latest = useRef(value);
  useInsertionEffect(() => {
    latest.current = value;
  });
  return latest;
}

/** `server`: in place of the value in HTML. */
function useReadable<T>({ subscribe, getSnapshot }: Readable<T>, server?: T): T {
  return useSyncExternalStore(subscribe, getSnapshot, server === undefined ? getSnapshot : () => server);
}

/** A readable as a selector shows it. Both functions may be new at every render. `server`: in place of the value in HTML. */
function useSelection<T, S>(
  { subscribe, getSnapshot }: Readable<T>,
  select: (value: T) => S,
  equals: (a: S, b: S) => boolean,
  server: T,
): S {
  const shown = useRef<{ value: S } | undefined>(undefined);
  const [now, html] = useMemo(() => {
    const read = selection(select, equals, shown.current);
    return [() => read(getSnapshot()), () => read(server)];
  }, [getSnapshot, select, equals, server]);
  const value = useSyncExternalStore(subscribe, now, html);
  useEffect(() => {
    shown.current = { value };
  }, [value]);
  return value;
}

function useLive(
  client: AnyClient<any>,
  key: string | null,
  select: ((value: any) => any) | undefined,
  { equals, initial }: LiveStateOptions<any>,
): Live<any> {
  const readable = useMemo(() => {
    if (key === null) return NOTHING;
    if (initial && !ON_SERVER) seed(client, key, initial);
    return live(client, key);
  }, [client, key]);
  const server = useMemo(() => rendered(key === null ? undefined : initial), [key, initial]);
  const selector = useMemo(() => part(select), [select]);
  const equal = useMemo(() => same(equals), [equals]);
  return useSelection(readable, selector, equal, server);
}

const waits = new WeakMap<object, Promise<unknown>>();

/** Suspends until a state is known; throws when it is refused, or there will be no connection. */
function awaited(client: AnyClient<any>, key: string, initial: Initial<any> | undefined): void {
  if (initial && ON_SERVER) return;
  if (initial) seed(client, key, initial);
  const state: Readable<Live<any>> = live(client, key);
  const { status, error } = state.getSnapshot();
  if (status === 'refused') throw error;
  if (status !== 'loading') return;
  const failure = client.ended;
  if (failure) throw failure;
  const idle = client.getConnectionState() === 'disconnected';
  if (ON_SERVER && idle) {
    const reason = `the state ${key} is not on this server; give it as \`initial\`, or it is shown by the browser only`;
    // Next takes errors with this digest for what they are, and does not report them.
    throw Object.assign(new Error(`datasole: ${reason}`), { digest: 'BAILOUT_TO_CLIENT_SIDE_RENDERING', reason });
  }
  // Effects do not run while this is suspended; the provider's neither, where it is suspended as well.
  if (idle) {
    holders.set(client, { count: 0, ...holders.get(client), connected: true });
    void client.connect();
  }
  let wait = waits.get(state);
  if (!wait) {
    // Followed from here on.
    const forget = () => waits.delete(state);
    wait = ready(client, key).then(forget, forget);
    waits.set(state, wait);
  }
  throw wait;
}

function useCall(client: AnyClient<any>, method: string, options: MutationOptions<any, any>): Mutation<any, any, any> {
  const latest = useLatest(options);
  const [state, setState] = useState<{ calls: number; data?: any; error?: any }>({ calls: 0 });
  const last = useRef(0);
  const run = useCallback(
    (...args: [any?]) => {
      const number = ++last.current;
      setState(({ calls, data, error }) => ({ calls: calls + 1, data, error }));
      const settle = (outcome: { data?: any; error?: any }) =>
        setState((before) => ({ ...(number === last.current ? outcome : before), calls: before.calls - 1 }));
      const result: Promise<any> = client.rpc(method, ...(args as [any]));
      // A failure is also the `error`: whoever does not await the promise is told, too.
      result.then(
        (data) => {
          settle({ data });
          latest.current.onSuccess?.(data, args[0]);
        },
        (error) => {
          settle({ error });
          latest.current.onError?.(error, args[0]);
        },
      );
      return result;
    },
    [client, method],
  );
  const reset = useCallback(() => {
    last.current++;
    setState(({ calls }) => ({ calls }));
  }, []);
  return { run, pending: state.calls > 0, data: state.data, error: state.error, reset };
}
