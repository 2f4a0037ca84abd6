/** A worker that is the test, and clients that use it. */
import { afterEach, beforeEach } from 'node:test';
import { DatasoleClient, type DatasoleClientOptions } from '../src/client.js';
import { PROTOCOL_VERSION, type FromWorker, type ToWorker } from '../src/protocol.js';

type Message<T extends ToWorker['t']> = Extract<ToWorker, { t: T }>;

export class FakeWorker {
  static all: FakeWorker[] = [];
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onerror: ((event: { message?: string; preventDefault(): void }) => void) | null = null;
  onmessageerror: (() => void) | null = null;
  readonly received: ToWorker[] = [];
  /** How many messages came at a time. */
  readonly posts: number[] = [];
  terminated = false;

  constructor() {
    FakeWorker.all.push(this);
  }

  postMessage(messages: ToWorker[], transfer: ArrayBuffer[]): void {
    this.posts.push(messages.length);
    this.received.push(...structuredClone(messages, { transfer }));
  }

  terminate(): void {
    this.terminated = true;
  }

  // --- the worker's end ---

  say(...messages: FromWorker[]): void {
    this.onmessage?.({ data: JSON.stringify(messages) });
  }

  batch(data: unknown): void {
    this.onmessage?.({ data });
  }

  fail(message?: string): void {
    this.onerror?.({ message, preventDefault() {} });
  }

  of<T extends ToWorker['t']>(t: T): Message<T>[] {
    return this.received.filter((message): message is Message<T> => message.t === t);
  }
}

/** The status of a connection to a version 2 server. */
export const CONNECTED: FromWorker = { t: 'status', state: 'connected', protocol: 2, connectionId: 'c1', userId: 'ann' };

/** Disconnected after the test. */
export const clients: DatasoleClient[] = [];
/** Errors that no caller can catch, and lines of the console, of this test. */
export const reported: unknown[] = [];
const consoleError = console.error;

beforeEach(() => {
  FakeWorker.all = [];
  reported.length = 0;
  // Where there is no reportError, as in Node.
  console.error = (error: unknown) => reported.push(error);
});

afterEach(async () => {
  // A client that is left goes on trying.
  for (const client of clients.splice(0)) await client.disconnect();
  console.error = consoleError;
});

export function makeClient(options: Partial<DatasoleClientOptions> = {}): DatasoleClient {
  const worker = () => new FakeWorker() as unknown as Worker;
  // A path that is no file: the bytes are the worker's business here.
  const client = new DatasoleClient({ url: 'http://localhost:1', wasmUrl: '/none.wasm', worker, ...options });
  clients.push(client);
  return client;
}

/** Until everything that is under way has arrived. */
export async function settled(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** Until something that takes a timer has happened. */
export async function until(happened: () => boolean): Promise<void> {
  while (!happened()) await new Promise((resolve) => setTimeout(resolve, 1));
}

/** The nth worker, greeted and ready. */
export async function ready(at = 0): Promise<FakeWorker> {
  await settled();
  const worker = FakeWorker.all[at]!;
  worker.say({ t: 'here', v: PROTOCOL_VERSION });
  while (!worker.of('init').length) await settled();
  worker.say({ t: 'ready', build: 'test' });
  await settled();
  return worker;
}

export async function connected(options?: Partial<DatasoleClientOptions>, status = CONNECTED) {
  const client = makeClient(options);
  const opened = client.connect();
  const worker = await ready();
  worker.say(status);
  await opened;
  return { client, worker };
}
