/**
 * The client, as `datasole/client` has it, and what client code shares with its contracts: types, errors, CRDTs.
 *
 * @packageDocumentation
 */
export * from './aliases.js';
export type * from './contract.js';
export type { Crdt, CrdtOperation, CrdtState, CrdtType } from './crdt/index.js';
export { DEFAULT_WS_PATH } from './options.js';
export type * from './status.js';
export * from './client.js';
