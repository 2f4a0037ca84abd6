/**
 * Worker and wasm as files of the application's own bundle.
 *
 * @packageDocumentation
 */
import type { DatasoleClientOptions } from './options.js';

/**
 * Options with which page, worker and wasm are of one version, whatever the server has: for pages that are deployed apart from it.
 * Needs a bundler that copies the files of `new URL(…, import.meta.url)`, as Vite, webpack and Rspack do.
 *
 * @example
 * ```ts
 * const client = new DatasoleClient({ url: 'https://api.example', ...bundledWorker() });
 * ```
 */
export function bundledWorker(): Pick<DatasoleClientOptions, 'worker' | 'wasmUrl'> {
  return {
    worker: () => new Worker(new URL('./worker.mjs', import.meta.url), { type: 'module', name: 'datasole' }),
    wasmUrl: new URL('./datasole.v3.wasm', import.meta.url).href,
  };
}
