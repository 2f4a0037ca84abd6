/** The promise of `connect`, and its ends. */
import type { DatasoleError } from './errors.js';

/** See the module. */
export interface Opening {
  promise: Promise<void>;
  resolve(): void;
  reject(error: DatasoleError): void;
}

/** One without an outcome. */
export function deferred(): Opening {
  let resolve!: () => void;
  let reject!: (error: DatasoleError) => void;
  const promise = new Promise<void>((...settle) => ([resolve, reject] = settle));
  return { promise, resolve, reject };
}
