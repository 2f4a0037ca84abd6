/** Names of datasole 1.x, under which its applications know what has another name here, or is a message on the wire. */
import type { ContractShape, RpcName, RpcResult } from './contract.js';
import type { RpcOptions } from './options.js';
import { applyPatch as apply } from './patch.js';
import type { Subscription } from './slim.js';

/** The names of a contract's RPC methods. @deprecated Use `RpcName`. */
export type RpcMethodKey<C extends ContractShape> = RpcName<C>;

/** The result of a method. @deprecated Use `RpcResult`. */
export type ContractRpcResult<C extends ContractShape, M extends RpcName<C>> = RpcResult<C, M>;

/** Options of a call. @deprecated Use `RpcOptions` of `datasole/client`. */
export type RpcCallOptions = RpcOptions;

/** A subscription of a live state. @deprecated Use `Subscription` of `datasole/client`. */
export type StateSubscription = Subscription;

/** An operation on a state: RFC 6902. */
export interface StatePatch {
  op: 'add' | 'remove' | 'replace' | 'move' | 'copy' | 'test';
  path: string;
  from?: string;
  value?: unknown;
}

/** A state as on the wire. @deprecated Clients are given values. */
export interface StateSnapshot<T = unknown> {
  key: string;
  version: number;
  data: T;
}

/** A call as on the wire. @deprecated Clients call `rpc`. */
export interface RpcRequest<T = unknown> {
  method: string;
  params: T;
  correlationId: number;
}

/** The answer to a call as on the wire. @deprecated Clients are given the result. */
export interface RpcResponse<T = unknown> {
  correlationId: number;
  result?: T;
  error?: RpcError;
}

/** The error of a call as on the wire. @deprecated Calls reject with a `DatasoleError`. */
export interface RpcError {
  code: number;
  message: string;
  data?: unknown;
}

/** A message as on the wire. @deprecated Clients hide them. */
export interface Frame {
  opcode: number;
  correlationId: number;
  payload: Uint8Array;
}

/** What a client shows to be let in. @deprecated Use `DatasoleClientOptions['auth']` of `datasole/client`. */
export interface AuthCredentials {
  token?: string;
  headers?: Record<string, string>;
}

/** Who a connection belongs to. @deprecated The server has it: `Identity` in Rust. */
export interface AuthContext {
  userId?: string;
  roles?: string[];
  metadata?: Record<string, unknown>;
}

/** The outcome of an authentication. @deprecated The server has it: `Identity` in Rust. */
export interface AuthResult extends AuthContext {
  authenticated: boolean;
}

/** The ways of data between client and server. */
export type DataFlowPattern =
  | 'rpc'
  | 'server-event'
  | 'client-event'
  | 'bidirectional-event'
  | 'server-live-state'
  | 'client-live-state'
  | 'bidirectional-crdt';

/** When the changes of a channel leave. */
export type SyncGranularity = 'immediate' | 'batched' | 'debounced' | 'manual';

/**
 * The document after the patches. The given one stays as it is, and shares with it the parts that did not change.
 *
 * @throws Error when a patch does not fit.
 */
export function applyPatch<T = unknown>(document: T, patches: readonly StatePatch[]): T {
  return apply(document, patches, { owned: new Set(), text: 0 }) as T;
}
