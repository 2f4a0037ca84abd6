/**
 * Types, errors and CRDTs, shared by client code and its contracts. The client itself is in `datasole/client`.
 *
 * @packageDocumentation
 */
export * from './aliases.js';
export type * from './contract.js';
export type { Crdt, CrdtOperation, CrdtState, CrdtType } from './crdt/index.js';
export { DEFAULT_WS_PATH } from './options.js';
export type * from './status.js';
export { CrdtStore, DatasoleError, ErrorCode, GCounter, GSet, LWWMap, LWWRegister, ORSet, PNCounter } from './client.js';
