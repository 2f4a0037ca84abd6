// Replicas on a channel whose other end is the test: what is sent, what is kept, and that nothing waits for ever.
import assert from 'node:assert/strict';
import { afterEach, beforeEach, it } from 'node:test';
import type { ChannelHandlers } from '../src/channel.js';
import { PNCounter, type CrdtOperation, type CrdtState } from '../src/crdt/index.js';
import { CrdtStore } from '../src/crdt/store.js';
import type { CrdtStorage } from '../src/crdt/replica.js';
import { DatasoleError, ErrorCode } from '../src/errors.js';

const errors: any[] = [];

beforeEach(() => {
  globalThis.reportError = (error) => void errors.push(error);
});

afterEach(() => void errors.splice(0));

const turn = () => new Promise((resolve) => setImmediate(resolve));
const failure = (code: number, retryAfter?: number) => new DatasoleError({ code, message: 'no', retryable: false, retryAfter });

/** A client's store, and the channel of the last key that was opened. */
class Client {
  readonly store: CrdtStore;
  readonly sent: CrdtOperation[] = [];
  connected = false;
  handlers!: ChannelHandlers;
  #answers: { resolve(): void; reject(error: DatasoleError): void }[] = [];

  constructor(storage?: CrdtStorage) {
    const open = (_key: string, handlers: ChannelHandlers) => {
      this.handlers = handlers;
      return { submit: (data: unknown) => this.#submit(data as CrdtOperation), notify() {}, close() {} };
    };
    this.store = new CrdtStore({ open, now: () => 1_000, plain: () => false, storage }, 'test');
  }

  #submit(operation: CrdtOperation): Promise<void> {
    if (!this.connected) return Promise.reject(failure(ErrorCode.NotConnected));
    this.sent.push(operation);
    return new Promise((resolve, reject) => this.#answers.push({ resolve, reject }));
  }

  /** Takes what was submitted, and publishes it. */
  take(): void {
    for (const operation of this.sent.splice(0)) this.handlers.entry(operation, false);
    for (const { resolve } of this.#answers.splice(0)) resolve();
  }

  refuse(code: number, retryAfter?: number): void {
    for (const { reject } of this.#answers.splice(0)) reject(failure(code, retryAfter));
  }

  connect(state?: CrdtState | null): void {
    this.connected = true;
    this.handlers.subscribed(false);
    if (state !== undefined) this.handlers.entry(state, true);
  }

  lose(): void {
    this.connected = false;
    this.sent.length = 0;
    this.refuse(ErrorCode.ConnectionLost);
  }
}

it('writes what waits where it may no longer read', async () => {
  const client = new Client();
  const counter = client.store.register('k', 'pn-counter');
  client.connect(null);
  counter.increment(2);
  client.lose();
  await turn();
  client.connected = true;
  client.handlers.refused(failure(ErrorCode.Forbidden));
  client.take();
  await turn();
  assert.deepEqual([client.store.pending, counter.value()], [0, 2]);
});

it('says when the server has a CRDT of another type, and does not wait for it', async () => {
  const client = new Client();
  const counter = client.store.register('k', 'pn-counter');
  counter.increment();
  const other = new PNCounter('other');
  client.connect({ ...other.state(), type: 'lww-map' });
  assert.equal(errors.length, 1);
  await turn();
  client.refuse(ErrorCode.InvalidParams);
  await turn();
  client.refuse(ErrorCode.InvalidParams);
  await turn();
  assert.deepEqual([client.store.pending, counter.value()], [0, 0]);
});
