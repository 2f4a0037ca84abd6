/**
 * The types that contracts of datasole 1.x import from `datasole/server`. Types only: the server is the Rust crate
 * `datasole-server`.
 *
 * @packageDocumentation
 * @deprecated Import them from `datasole`.
 */
export type * from './index.js';
