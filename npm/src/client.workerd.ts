/**
 * `datasole/client` in Cloudflare's workers, which compile no bytes: the wasm comes as a module. The core runs on the same thread.
 *
 * @packageDocumentation
 */
import module from './datasole.v3.wasm';
import { createEngine } from './worker.js';

export * from './client.js';

// Where the client looks for an engine.
const scope = globalThis as Record<symbol, unknown>;
scope[Symbol.for('datasole.engine')] = ((post, socket) => createEngine(post, socket, module)) satisfies typeof createEngine;
