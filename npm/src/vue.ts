/**
 * Composables for Vue 3.4 and later: the plugin {@link datasole}, {@link useLiveState} and the others.
 *
 * They have the types of the contract that has registered itself; {@link createComposables} makes those of another one. On a server
 * that renders pages nothing connects: states are `loading`, or what `initial` says.
 *
 * @packageDocumentation
 */
import {
  computed,
  getCurrentInstance,
  inject,
  onMounted,
  onScopeDispose,
  shallowRef,
  toValue,
  watch,
  type ComputedRef,
  type InjectionKey,
  type MaybeRefOrGetter,
  type Plugin,
  type ShallowRef,
} from 'vue';
import type { DatasoleClient } from './client.js';
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
  LOADING,
  lost,
  me,
  others,
  part,
  pendings,
  rendered,
  replica,
  same,
  seed,
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
} from './live.js';
import type { RpcOptions } from './options.js';
import type { Member } from './presence.js';
import type { DatasoleClient as AnyClient } from './slim.js';
import type { Status } from './status.js';

export type { DatasoleError, Initial, Live, LiveStateOptions, Member, MutationOptions, Pending, Status };

/** A live state as refs, which may be taken apart: see {@link Live}. */
export interface LiveRefs<S> {
  status: ComputedRef<Live<S>['status']>;
  data: ComputedRef<S | undefined>;
  error: ComputedRef<DatasoleError | undefined>;
  stale: ComputedRef<boolean>;
}

/** The outcome of {@link useMutation}. */
export interface Mutation<P, R, E = unknown> {
  /** Calls the method. The promise may be left alone: what it rejects with is also the `error`. */
  run: (...args: Args<P>) => Promise<R>;
  /** True while a call is under way. */
  pending: ComputedRef<boolean>;
  /** The result of the last call, once it has one. */
  data: ComputedRef<R | undefined>;
  /** The error of the last call, if it failed. */
  error: ComputedRef<(DatasoleError & { data?: E }) | undefined>;
  /** Forgets `data` and `error`. */
  reset: () => void;
}

/** The composables for a contract. */
export interface Composables<C extends ContractShape> {
  /**
   * The client for all below: `app.use(datasole(client))`. In a page, one that was never connected is.
   */
  datasole: (client: AnyClient<any>) => Plugin;

  /** The client. */
  useClient: () => DatasoleClient<C>;

  /**
   * A live state, or what `select` makes of its value. The key may be a ref or a getter; `loading` for `null`.
   *
   * @example
   * ```ts
   * const { status, data, stale } = useLiveState(() => `board:${props.id}`, (board) => board.title);
   * ```
   */
  useLiveState: <K extends StateKeyName<C>, S = StateValue<C, K>>(
    key: MaybeRefOrGetter<K | null>,
    select?: (value: StateValue<C, K>) => S,
    options?: LiveStateOptions<StateValue<C, K>, S>,
  ) => LiveRefs<S>;

  /** Calls the handler for every event of a name; none for `null`. `onMissed`: events may have been missed. */
  useEvent: <E extends HeardName<C>>(
    name: MaybeRefOrGetter<E | null>,
    handler: (payload: EventPayload<EventData<C, E>>) => void,
    options?: { onMissed?: () => void },
  ) => void;

  /** A function that calls a method. */
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
    room: MaybeRefOrGetter<R | null>,
    select?: (others: readonly Member<RoomValue<C, R>>[]) => S,
  ) => ComputedRef<S>;

  /** Joins a room as long as the component is there: this client's value, and a function that changes members of it. */
  useMyPresence: <R extends RoomName<C>>(
    room: R,
    initial: RoomValue<C, R>,
  ) => { value: ComputedRef<RoomValue<C, R>>; update: (patch: Partial<RoomValue<C, R>>) => void };

  /** A CRDT, its value, and what is pending of it. `initial`: what a register shows until it is written. */
  useCrdt: <K extends CrdtName<C>, T extends CrdtKind<C, K>>(
    key: K,
    type: T,
    initial?: CrdtItem<C, K>,
  ) => {
    value: ComputedRef<ReturnType<CrdtClasses<CrdtItem<C, K>>[T]['value']>>;
    crdt: CrdtClasses<CrdtItem<C, K>>[T];
    pending: ComputedRef<number>;
  };

  /** The connection; `lost` once there has been none for `lostAfter` milliseconds. Default 5,000. */
  useConnection: (options?: { lostAfter?: number }) => {
    status: ComputedRef<Status>;
    state: ComputedRef<Status['state']>;
    lost: ComputedRef<boolean>;
  };

  /** The number of calls, operations and changes that are not settled. */
  usePending: () => ComputedRef<Pending>;

  /** The browser asks before the page is left while something is not settled. */
  useUnloadGuard: (enabled?: MaybeRefOrGetter<boolean>) => void;
}

/** The composables for a contract that has not registered itself, with a plugin of their own. For programs with several servers. */
export function createComposables<C extends ContractShape>(): Composables<C> {
  return composablesOf(Symbol('datasole'));
}

const composables: Composables<Registered> = /* @__PURE__ */ composablesOf(/* @__PURE__ */ Symbol('datasole'));

/** See {@link Composables.datasole}. */
export const datasole: Composables<Registered>['datasole'] = composables.datasole;
/** See {@link Composables.useClient}. */
export const useClient: Composables<Registered>['useClient'] = composables.useClient;
/** See {@link Composables.useLiveState}. */
export const useLiveState: Composables<Registered>['useLiveState'] = composables.useLiveState;
/** See {@link Composables.useEvent}. */
export const useEvent: Composables<Registered>['useEvent'] = composables.useEvent;
/** See {@link Composables.useRpc}. */
export const useRpc: Composables<Registered>['useRpc'] = composables.useRpc;
/** See {@link Composables.useMutation}. */
export const useMutation: Composables<Registered>['useMutation'] = composables.useMutation;
/** See {@link Composables.useMembers}. */
export const useMembers: Composables<Registered>['useMembers'] = composables.useMembers;
/** See {@link Composables.useMyPresence}. */
export const useMyPresence: Composables<Registered>['useMyPresence'] = composables.useMyPresence;
/** See {@link Composables.useCrdt}. */
export const useCrdt: Composables<Registered>['useCrdt'] = composables.useCrdt;
/** See {@link Composables.useConnection}. */
export const useConnection: Composables<Registered>['useConnection'] = composables.useConnection;
/** See {@link Composables.usePending}. */
export const usePending: Composables<Registered>['usePending'] = composables.usePending;
/** See {@link Composables.useUnloadGuard}. */
export const useUnloadGuard: Composables<Registered>['useUnloadGuard'] = composables.useUnloadGuard;

function composablesOf<C extends ContractShape>(token: InjectionKey<AnyClient<any>>): Composables<C> {
  const useClient = (): DatasoleClient<any> => {
    const client = inject(token, undefined);
    if (!client) throw new Error('datasole: there is no client here: app.use(datasole(client))');
    return client as DatasoleClient<any>;
  };
  return {
    datasole: (client) => ({
      install(app) {
        app.provide(token, client);
        // An application that connects a client, or has disconnected it, knows why.
        if (!ON_SERVER && connection(client).getSnapshot().reason?.kind === 'idle') void client.connect();
      },
    }),
    useClient,
    useLiveState: (key: MaybeRefOrGetter<any>, select?: (value: any) => any, options: LiveStateOptions<any> = {}) => {
      const { equals, initial } = options;
      const client = useClient();
      const source = (): Readable<Live<any>> => {
        const now = toValue(key);
        if (now === null) return NOTHING;
        if (initial) seed(client, now, initial);
        return live(client, now);
      };
      const state = useReadable(source, rendered(toValue(key) === null ? undefined : initial));
      const [selected, equal] = [part(select), same(equals)];
      let last: Live<any> = LOADING;
      const shown = computed(() => {
        const now = selected(state.value);
        return equal(last, now) ? last : (last = now);
      });
      const ref = (name: keyof Live<any>): ComputedRef<any> => computed(() => shown.value[name]);
      return { status: ref('status'), data: ref('data'), error: ref('error'), stale: ref('stale') };
    },
    useEvent: (name: MaybeRefOrGetter<any>, handler: (payload: any) => void, { onMissed } = {}) => {
      const client = useClient();
      follow(
        () => toValue(name),
        (event) => {
          if (event === null) return;
          const heard = (payload: any) => handler(payload);
          client.on(event, heard);
          const end = client.onMissed((missed) => missed === event && onMissed?.());
          return () => (client.off(event, heard), end());
        },
      );
    },
    useRpc: (method: any) => {
      const client = useClient();
      return (...args: any[]) => client.rpc(method, ...args);
    },
    useMutation: (method: any, options: MutationOptions<any, any> = {}) => callOf(useClient(), method, options),
    useMembers: (room: MaybeRefOrGetter<any>, select: (others: any) => any = (all) => all) => {
      const client = useClient();
      const members = useReadable(() => {
        const now = toValue(room);
        return now === null ? NOBODY : others(client.presence(now));
      }, NO_MEMBERS);
      return computed(() => select(members.value));
    },
    useMyPresence: (room: string, initial: any) => {
      const own = me<any>(useClient().presence(room));
      follow(
        () => own,
        () => own.enter(initial),
      );
      const value = useReadable(() => own, undefined);
      return { value: computed(() => value.value ?? initial), update: own.update };
    },
    useCrdt: (key: string, type: any, initial?: any) => {
      const readable = replica(useClient(), key, type, initial);
      const state = useReadable(() => readable, readable.getSnapshot());
      const { crdt } = state.value;
      return { value: computed(() => state.value.value), crdt, pending: computed(() => state.value.pending) } as any;
    },
    useConnection: ({ lostAfter }: { lostAfter?: number } = {}) => {
      const client = useClient();
      const status = useReadable(() => connection(client), IDLE);
      const missing = lost(client, lostAfter);
      const gone = useReadable(() => missing, false);
      return {
        status: computed(() => status.value),
        state: computed(() => status.value.state),
        lost: computed(() => gone.value),
      };
    },
    usePending: () => {
      const client = useClient();
      const pending = useReadable(() => pendings(client), SETTLED);
      return computed(() => pending.value);
    },
    useUnloadGuard: (enabled: MaybeRefOrGetter<boolean> = true) => {
      const client = useClient();
      follow(
        () => toValue(enabled),
        (on) => (on ? guardUnload(client) : undefined),
      );
    },
  };
}

const ON_SERVER = typeof window === 'undefined';
const NO_MEMBERS: readonly Member[] = [];
const NOBODY = constant(NO_MEMBERS);
const NOTHING = constant<Live<any>>(LOADING);

/** Begins something for the present value of a source, and ends it before the next, and with the component. Not on a server. */
function follow<T>(source: () => T, begin: (value: T) => (() => void) | void): void {
  if (ON_SERVER) return;
  let end: (() => void) | void;
  const next = (value: T) => {
    const before = end;
    end = begin(value);
    before?.();
  };
  watch(source, next, { immediate: true, flush: 'sync' });
  onScopeDispose(() => end?.());
}

/** The value of a readable, which may be another one later; on a server, and until a page that it rendered is taken over, `server`. */
function useReadable<T>(source: () => Readable<T>, server: T): ShallowRef<T> {
  const value = shallowRef(server) as ShallowRef<T>;
  // Its element is there before its setup.
  let rendered = !!getCurrentInstance()?.vnode.el;
  let read = () => {};
  follow(source, ({ subscribe, getSnapshot }) => {
    read = () => void (rendered || (value.value = getSnapshot()));
    const end = subscribe(read);
    read();
    return end;
  });
  if (rendered) {
    onMounted(() => {
      rendered = false;
      read();
    });
  }
  return value;
}

function callOf(client: AnyClient<any>, method: string, options: MutationOptions<any, any>): Mutation<any, any, any> {
  const calls = shallowRef(0);
  const outcome = shallowRef<{ data?: any; error?: any }>({});
  let last = 0;
  const run = (...args: [any?]) => {
    const number = ++last;
    calls.value++;
    const settle = (now: { data?: any; error?: any }) => {
      calls.value--;
      if (number === last) outcome.value = now;
    };
    const result: Promise<any> = client.rpc(method, ...(args as [any]));
    // A failure is also the `error`: whoever does not await the promise is told, too.
    result.then(
      (data) => {
        settle({ data });
        options.onSuccess?.(data, args[0]);
      },
      (error) => {
        settle({ error });
        options.onError?.(error, args[0]);
      },
    );
    return result;
  };
  const reset = () => {
    last++;
    outcome.value = {};
  };
  return {
    run,
    pending: computed(() => calls.value > 0),
    data: computed(() => outcome.value.data),
    error: computed(() => outcome.value.error),
    reset,
  };
}
