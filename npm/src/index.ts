/**
 * What client code and its contracts share: types, and errors. The client itself is in `datasole/client`.
 *
 * @packageDocumentation
 */
export type * from './contract.js';
export type * from './status.js';
export { DatasoleError, ErrorCode } from './client.js';
