/**
 * The client for browsers and Node: {@link DatasoleClient}.
 *
 * @packageDocumentation
 */
import type { ContractShape, Registered } from './contract.js';
import { byKey, CrdtStore, type Crdts } from './crdt/store.js';
import type { DatasoleClientOptions } from './options.js';
import { DatasoleClient as SlimClient } from './slim.js';

export * from './crdt/index.js';
export * from './slim.js';

/**
 * RPC, events, live state and CRDTs over one WebSocket.
 *
 * @example
 * ```ts
 * const client = new DatasoleClient<AppContract>({ url: location.origin });
 * await client.connect();
 * const { sum } = await client.rpc('add', { a: 1, b: 2 });
 * client.on('chat:message', ({ data }) => show(data));
 * client.emit('chat:message', { text: 'hello' });
 * const board = client.subscribeState('dashboard', (value) => render(value));
 * board.unsubscribe();
 * await client.disconnect();
 * ```
 *
 * @typeParam C - The methods, events and states of the server, see `DatasoleContract`.
 */
export class DatasoleClient<C extends ContractShape = Registered> extends SlimClient<C> {
  #crdts?: CrdtStore;

  /** The client that this made for the same options before, see the client without CRDTs. */
  declare static reuse: <C extends ContractShape = Registered>(options?: DatasoleClientOptions) => DatasoleClient<C>;

  /**
   * CRDTs: values that change at once, with or without a connection, and end the same everywhere.
   *
   * @example
   * ```ts
   * const votes = client.crdt.counter('votes');
   * votes.subscribe((count) => (label.textContent = String(count)));
   * votes.increment();
   * ```
   */
  get crdt(): Crdts {
    return byKey(this.registerCrdt('web'));
  }

  /** The CRDTs, as a store; made once. Replicas are called `name` and something random, so that no two are the same. */
  registerCrdt(name: string): CrdtStore {
    return (this.#crdts ??= new CrdtStore(name, this.replicaHost()));
  }

  /** The CRDTs of {@link registerCrdt}. */
  getCrdtStore(): CrdtStore | undefined {
    return this.#crdts;
  }
}
