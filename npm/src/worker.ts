/**
 * The worker: dedicated to a page, or shared by pages where `shared.ts` has named it. Loaded on a page without a worker, or by a
 * service or shared worker of the application, the script starts nothing and leaves its engine in a slot (see `port.ts`).
 */
import { createEngine, ENGINE_SLOT, type CreateEngine } from './engine.js';
import { hubFile, type FromWorker, type ToWorker } from './protocol.js';

/** Set by `npm/build.mjs`: whether this is a script for pages without modules. */
declare const IIFE: boolean;

export { createEngine };

interface WorkerScope {
  [ENGINE_SLOT]?: CreateEngine | null;
  WorkerGlobalScope?: unknown;
  /** Dedicated workers have one. */
  postMessage?(message: unknown, transfer: ArrayBuffer[]): void;
  onmessage: ((event: MessageEvent<ToWorker[]>) => void) | null;
  name?: string;
  onconnect?: ((event: { ports: readonly MessagePort[] }) => void) | null;
}

const scope = globalThis as unknown as WorkerScope;
if (!(ENGINE_SLOT in scope) && 'onconnect' in scope && /^datasole [0-9a-f]{64}$/.test(scope.name!)) {
  let connect: ReturnType<typeof import('./hub.js').serve> | undefined;
  // Loaded only here. The messages of a port wait until somebody listens.
  scope.onconnect = async (event) => {
    try {
      const { serve }: typeof import('./hub.js') = IIFE
        ? await import(/* webpackIgnore: true */ /* @vite-ignore */ new URL(hubFile(), location.href).href)
        : await import('./hub.js');
      (connect ??= serve(navigator.locks, createEngine))(event);
    } catch {
      const fatal: FromWorker = { t: 'fatal', message: `the script ${hubFile()} could not be loaded` };
      event.ports[0]!.postMessage(JSON.stringify([fatal]));
    }
  };
} else if (ENGINE_SLOT in scope || (scope.WorkerGlobalScope && !scope.postMessage)) {
  scope[ENGINE_SLOT] = createEngine;
} else if (scope.WorkerGlobalScope) {
  const engine = createEngine((batch, transfer) => scope.postMessage!(batch, transfer));
  scope.onmessage = ({ data }) => engine.post(data);
}
