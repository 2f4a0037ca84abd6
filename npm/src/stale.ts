/**
 * The script under the worker's old URL, which had no version: pages and bundles that still load it speak another protocol
 * than {@link PROTOCOL_VERSION}. Tells them so at once, instead of leaving them waiting.
 */
import { PROTOCOL_VERSION } from './protocol.js';

interface WorkerScope {
  WorkerGlobalScope?: unknown;
  postMessage(message: unknown): void;
  onmessage: ((event: { data: { type?: string } }) => void) | null;
}

const scope = globalThis as unknown as WorkerScope;
if (scope.WorkerGlobalScope) {
  const message = `the page's datasole client is too old or loads the wrong worker: this server has datasole-worker.v${PROTOCOL_VERSION}.js; reload the page, or build it anew`;
  // To pages whose messages are arrays, which wait for a greeting.
  scope.postMessage(JSON.stringify([{ t: 'fatal', message }]));
  // To those of datasole 1, which ask first; they show no message of ours.
  scope.onmessage = ({ data }) => {
    if (data.type !== 'connect') return;
    console.error(message);
    scope.postMessage({ type: 'error', payload: { message } });
  };
}
