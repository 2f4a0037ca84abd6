/**
 * The dedicated worker. Loaded on a page without a worker, or by a service or shared worker, the script starts nothing and leaves
 * its engine in a slot (see `port.ts`).
 */
import { createEngine, ENGINE_SLOT, type CreateEngine } from './engine.js';
import type { ToWorker } from './protocol.js';

export { createEngine };

interface WorkerScope {
  [ENGINE_SLOT]?: CreateEngine | null;
  WorkerGlobalScope?: unknown;
  /** Dedicated workers have one. */
  postMessage?(message: unknown, transfer: ArrayBuffer[]): void;
  onmessage: ((event: MessageEvent<ToWorker[]>) => void) | null;
}

const scope = globalThis as unknown as WorkerScope;
if (ENGINE_SLOT in scope || (scope.WorkerGlobalScope && !scope.postMessage)) {
  scope[ENGINE_SLOT] = createEngine;
} else if (scope.WorkerGlobalScope) {
  const engine = createEngine((batch, transfer) => scope.postMessage!(batch, transfer));
  scope.onmessage = ({ data }) => engine.post(data);
}
