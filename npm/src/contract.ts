/**
 * The methods, events and states of a server, as types. Written by hand, or derived from the types of the server.
 *
 * @example
 * ```ts
 * interface AppContract extends DatasoleContract {
 *   rpc: { add: { params: { a: number; b: number }; result: { sum: number } } };
 *   events: { 'chat:message': { from: string; text: string } };
 *   state: { dashboard: { visitors: number } };
 * }
 * const client = new DatasoleClient<AppContract>({ url: location.origin });
 * const { sum } = await client.rpc('add', { a: 1, b: 2 });
 * ```
 */
export interface DatasoleContract {
  /** RPC methods by name. */
  rpc: Record<string, { params: any; result: any }>;
  /** Data of events by name. */
  events: Record<string, any>;
  /** Live states by key. */
  state: Record<string, any>;
}

/**
 * The contract of this program, if one has registered itself: the file that is written from a contract in Rust does when it is
 * imported. A program with several servers gives each client its own instead.
 *
 * @example
 * ```ts
 * declare module 'datasole' {
 *   interface Register {
 *     contract: AppContract;
 *   }
 * }
 * ```
 */
export interface Register {}

/** The registered contract, else anything. */
export type Registered = Register extends { contract: infer C extends ContractShape } ? C : DatasoleContract;

/** Anything shaped like a {@link DatasoleContract}, interfaces without an index signature included. */
export interface ContractShape {
  rpc: object;
  events: object;
  state: object;
  /** CRDTs by key: `'pn-counter'`, or `{ type: 'or-set'; value: string }`. */
  crdt?: object;
  /** The values of presence rooms. */
  presence?: object;
  /** Documents by key. */
  docs?: object;
}

/** The arguments for a type: none are needed where nothing, or an empty object, will do. */
export type Args<P> = null extends P ? [params?: P] : undefined extends P ? [params?: P] : {} extends P ? [params?: P] : [params: P];

type Name<T> = Extract<keyof T, string>;

/** The names of a contract's RPC methods. */
export type RpcName<C extends ContractShape> = Name<C['rpc']>;

/** The parameters of a method. */
export type RpcParams<C extends ContractShape, M extends RpcName<C>> = C['rpc'][M] extends { params: infer P } ? P : any;

/** The result of a method. */
export type RpcResult<C extends ContractShape, M extends RpcName<C>> = C['rpc'][M] extends { result: infer R } ? R : any;

/** The data that the errors of a method carry. */
export type RpcErrorData<C extends ContractShape, M extends RpcName<C>> = C['rpc'][M] extends { error: infer E } ? E : unknown;

/** The names of a contract's events. */
export type EventName<C extends ContractShape> = Name<C['events']>;

/** The names of the events that clients send: all, where the contract does not tell. */
export type SentName<C extends ContractShape> = C extends { direction: { up: infer E extends string } } ? E : EventName<C>;

/** The names of the events that the server sends: all, where the contract does not tell. */
export type HeardName<C extends ContractShape> = C extends { direction: { down: infer E extends string } } ? E : EventName<C>;

/** The data of an event. */
export type EventData<C extends ContractShape, E extends string> = E extends keyof C['events'] ? C['events'][E] : any;

/** The keys of a contract's live states. */
export type StateKeyName<C extends ContractShape> = Name<C['state']>;

/** The value of a live state. */
export type StateValue<C extends ContractShape, K extends StateKeyName<C>> = C['state'][K];

/** The names of a contract's presence rooms: any, where the contract has none. */
export type RoomName<C extends ContractShape> = C extends { presence: infer R extends object } ? Name<R> : string;

/** The value that members of a room show. */
export type RoomValue<C extends ContractShape, R extends string> = C extends { presence: infer P }
  ? R extends keyof P
    ? P[R]
    : any
  : any;

/** The argument of an event handler. */
export interface EventPayload<T = unknown> {
  /** The event's name. */
  event: string;
  /** Its data; a `Uint8Array` when raw bytes were sent. */
  data: T;
  /** The server's clock; Unix milliseconds. */
  timestamp: number;
}

/** A handler of events. */
export type EventHandler<T = any> = { bivariant(payload: EventPayload<T>): void }['bivariant'];

/** A handler of a state's values; `undefined` before any, and when the key does not exist. */
export type StateHandler<T> = { bivariant(value: T | undefined): void }['bivariant'];
