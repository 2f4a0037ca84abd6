/**
 * Worker and wasm inside a module: 220 KB more, 93 KB in gzip, and no other file is loaded.
 *
 * @packageDocumentation
 */
import type { DatasoleClientOptions } from './options.js';

/** Set by `npm/build.mjs`: the worker's script, and the wasm in base64. */
declare const INLINE_WORKER: string;
declare const INLINE_WASM: string;

/** Of the page; made once. */
let urls: { worker: string; wasm: string } | undefined;

/**
 * Options for pages that can load neither worker nor wasm: of `file:`, in Electron, in a sandbox, in tests. A page with a
 * Content-Security-Policy must allow `worker-src blob:` and `connect-src blob:`. Outside of pages, where the package reads its wasm
 * itself, there are none.
 *
 * @example
 * ```ts
 * const client = new DatasoleClient({ url: 'https://api.example', ...inlineWorker() });
 * ```
 */
export function inlineWorker(): Pick<DatasoleClientOptions, 'worker' | 'wasmUrl'> {
  if (typeof location !== 'object') return {};
  const { worker, wasm } = (urls ??= {
    worker: URL.createObjectURL(new Blob([INLINE_WORKER], { type: 'text/javascript' })),
    wasm: URL.createObjectURL(new Blob([Uint8Array.from(atob(INLINE_WASM), (char) => char.charCodeAt(0))], { type: 'application/wasm' })),
  });
  return { worker: () => new Worker(worker, { name: 'datasole' }), wasmUrl: wasm };
}
