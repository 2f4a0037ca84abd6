/**
 * The page's half of `shared: true`: a port of the shared worker that all pages with the same options have. Loaded only then.
 *
 * Ports do not tell that their other end is gone. So each end holds a Web Lock, and the other one waits for it.
 */
import type { LinkOptions } from './link.js';
import type { Port, PortEvents } from './port.js';

/** The first message of a port: the name of the lock that the worker holds. */
export interface Greeting {
  lock: string;
}

let warned = false;

/** Opens a port; `undefined` where there can be no shared worker, which is said once. */
export async function openShared({ core, worker: own, workerUrl, shared }: LinkOptions, events: PortEvents): Promise<Port | undefined> {
  const none = (why: unknown) => {
    if (!warned) console.warn(`datasole: ${why}, so each tab has a connection of its own`);
    warned = true;
    return undefined;
  };
  if (own) return none('a worker that the application makes cannot be shared');
  if (typeof SharedWorker !== 'function') return none('there are no shared workers here');
  if (!navigator.locks || !crypto.subtle) return none('shared workers need a secure context (https or localhost)');
  if (new URL(workerUrl).origin !== self.origin) return none(`the worker ${workerUrl} of another origin cannot be shared`);
  // Whoever has other options has another worker: a name that says so, and does not tell the token.
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(JSON.stringify([core, shared])));
  const name = `datasole ${Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join('')}`;
  let worker: SharedWorker;
  try {
    worker = new SharedWorker(workerUrl, { name, type: /\.mjs($|\?)/.test(workerUrl) ? 'module' : 'classic' });
  } catch (error) {
    return none(error);
  }
  const { port } = worker;
  const end = new AbortController();
  worker.onerror = (event) => {
    event.preventDefault();
    events.failed(`the worker script ${workerUrl} could not be loaded`);
  };
  port.onmessage = ({ data }) => {
    if (!(data as Greeting).lock) return events.batch(data);
    navigator.locks
      .request((data as Greeting).lock, { mode: 'shared', signal: end.signal }, () => events.failed('the shared worker has ended'))
      .catch(() => {});
  };
  port.onmessageerror = () => events.failed('a message of the worker could not be read');
  const lock = `datasole page ${crypto.randomUUID()}`;
  navigator.locks
    .request(lock, { signal: end.signal }, () => {
      port.postMessage(lock);
      return new Promise<void>((release) => end.signal.addEventListener('abort', () => release()));
    })
    .catch(() => {});
  return {
    post: (messages, transfer) => port.postMessage(messages, transfer),
    end: () => {
      port.onmessage = null;
      end.abort();
    },
  };
}
