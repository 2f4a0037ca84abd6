/**
 * The page's half of `shared: true`: a port of the shared worker that all pages with the same options have. Loaded only then.
 *
 * Ports do not tell that their other end is gone. So each end holds a Web Lock, and the other one waits for it.
 */
import { delay } from './lifecycle.js';
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
  const end = new AbortController();
  const { signal } = end;
  const lock = `datasole page ${crypto.randomUUID()}`;
  const held = new Promise<void>((resolve) => {
    const hold = () => (resolve(), new Promise<void>((release) => signal.addEventListener('abort', () => release())));
    navigator.locks.request(lock, { signal }, hold).catch(() => {});
  });
  // Tabs with other options have another worker: the name differs, and does not tell the token.
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(JSON.stringify([core, shared])));
  const name = `datasole ${Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join('')}`;
  let worker: SharedWorker;
  try {
    worker = new SharedWorker(workerUrl, { name, type: /\.mjs($|\?)/.test(workerUrl) ? 'module' : 'classic' });
  } catch (error) {
    end.abort();
    return none(error);
  }
  const { port } = worker;
  const greeted = new Promise<boolean>((resolve, reject) => {
    const failed = (message: string) => (reject(new Error(message)), events.failed(message));
    worker.onerror = (event) => {
      event.preventDefault();
      failed(`the worker script ${workerUrl} could not be loaded`);
    };
    port.onmessageerror = () => failed('a message of the worker could not be read');
    port.onmessage = ({ data }) => {
      if (!(data as Greeting).lock) return events.batch(data);
      resolve(true);
      navigator.locks.request((data as Greeting).lock, { mode: 'shared', signal }, () => failed('the shared worker has ended')).catch(() => {});
    };
    void held.then(() => port.postMessage(lock));
    // One that is about to end may still be given to pages, and answers nothing.
    setTimeout(() => resolve(false), delay(core.connectTimeout! / 2));
  });
  const close = () => {
    port.onmessage = null;
    end.abort();
  };
  if (!(await greeted)) {
    close();
    return none('the shared worker does not answer');
  }
  return { post: (messages, transfer) => port.postMessage(messages, transfer), end: close };
}
