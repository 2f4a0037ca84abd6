/** Ways to a core host: a dedicated worker, or the same thread. Both carry the same messages. */
import type { CreateEngine } from './engine.js';
import type { Batch, ToWorker } from './protocol.js';

/** Set by `npm/build.mjs`: whether this is the script for pages without modules. */
declare const IIFE: boolean;

/** A way to a core host. */
export interface Port {
  post(messages: ToWorker[], transfer: ArrayBuffer[]): void;
  /** Ends the host; `gently` leaves time for the closing handshake. */
  end(gently: boolean): void;
}

/** The messages from a core host. */
export interface PortEvents {
  batch(batch: Batch): void;
  /** The host is unusable. */
  failed(message: string): void;
}

/** Long enough for a close handshake. */
const GOODBYE_MS = 1_000;

/**
 * Starts a worker. A script of another origin is loaded through a script of ours, since workers must be same-origin.
 */
export function openWorker(url: string, make: (() => Worker) | undefined, events: PortEvents): Port {
  let blob: string | undefined;
  let worker: Worker;
  if (make) {
    worker = make();
  } else {
    if (globalThis.location && new URL(url).origin !== self.origin) {
      blob = URL.createObjectURL(new Blob([`importScripts(${JSON.stringify(url)})`], { type: 'text/javascript' }));
    }
    worker = new Worker(blob ?? url, { name: 'datasole', type: !blob && /\.mjs($|\?)/.test(url) ? 'module' : 'classic' });
  }
  worker.onmessage = (event) => events.batch(event.data);
  worker.onerror = (event) => {
    event.preventDefault();
    events.failed(event.message || `the worker script ${url} could not be loaded`);
  };
  worker.onmessageerror = () => events.failed('a message of the worker could not be read');
  return {
    post: (messages, transfer) => worker.postMessage(messages, transfer),
    end: (gently) => {
      worker.onmessage = null;
      if (blob) URL.revokeObjectURL(blob);
      if (gently) setTimeout(() => worker.terminate(), GOODBYE_MS);
      else worker.terminate();
    },
  };
}

/** The engine, to run on this thread. The worker's script has it too; with the slot present it leaves it there instead of starting a worker. */
export async function loadEngine(workerUrl: string): Promise<CreateEngine> {
  const scope = globalThis as Record<symbol, CreateEngine | null | undefined>;
  const slot = Symbol.for('datasole.engine');
  if (scope[slot]) return scope[slot];
  scope[slot] = null;
  if (IIFE) await import(/* webpackIgnore: true */ /* @vite-ignore */ workerUrl);
  else await import('./worker.js');
  if (!scope[slot]) throw new Error(`${workerUrl} is not a worker script of this version`);
  return scope[slot];
}
