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

/** Anything shaped like a {@link DatasoleContract}, interfaces without an index signature included. */
export interface ContractShape {
  rpc: object;
  events: object;
  state: object;
}

type Name<T> = Extract<keyof T, string>;

/** The names of a contract's RPC methods. */
export type RpcName<C extends ContractShape> = Name<C['rpc']>;

/** The parameters of a method. */
export type RpcParams<C extends ContractShape, M extends RpcName<C>> = C['rpc'][M] extends { params: infer P } ? P : any;

/** The result of a method. */
export type RpcResult<C extends ContractShape, M extends RpcName<C>> = C['rpc'][M] extends { result: infer R } ? R : any;

/** The names of a contract's events. */
export type EventName<C extends ContractShape> = Name<C['events']>;

/** The data of an event. */
export type EventData<C extends ContractShape, E extends EventName<C>> = C['events'][E];

/** The keys of a contract's live states. */
export type StateKeyName<C extends ContractShape> = Name<C['state']>;

/** The value of a live state. */
export type StateValue<C extends ContractShape, K extends StateKeyName<C>> = C['state'][K];

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
export type EventHandler<T> = { bivariant(payload: EventPayload<T>): void }['bivariant'];

/** A handler of a state's values; `undefined` before any, and when the key does not exist. */
export type StateHandler<T> = { bivariant(value: T | undefined): void }['bivariant'];
