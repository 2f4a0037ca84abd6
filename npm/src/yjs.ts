/**
 * Yjs documents on a client's one connection: {@link DatasoleProvider}. Needs `yjs` and `y-protocols`.
 *
 * @packageDocumentation
 */
import { applyAwarenessUpdate, Awareness, encodeAwarenessUpdate, removeAwarenessStates } from 'y-protocols/awareness';
import * as Y from 'yjs';
import { report } from './errors.js';
import { call } from './handlers.js';
import { whileCached } from './lifecycle.js';
import type { StreamMessage } from './protocol.js';
import type { DatasoleClient } from './slim.js';
import type { ConnectionState } from './status.js';
import type { Port, Stream } from './streams.js';

/** Options of a {@link DatasoleProvider}. */
export interface DatasoleProviderOptions {
  /** Cursors and names. Default: a new one for the document, which ends with the provider. */
  awareness?: Awareness;
  /** Changes of this client's awareness leave at most this often, the last one always. Default 50 ms. */
  awarenessThrottle?: number;
}

/** The events of a {@link DatasoleProvider}. */
export interface DatasoleProviderEvents {
  /** True once all changes of the server are here. */
  synced: boolean;
  /** The number of pending local changes: not acknowledged by the server yet. */
  pending: number;
  /** The connection. */
  status: ConnectionState;
  /** A local change was refused (see `code`) and stays pending, with all later ones, until one undoes it; or a message was malformed. */
  error: unknown;
}

/** A handler of an event. */
export type DatasoleProviderHandler<E extends keyof DatasoleProviderEvents> = (value: DatasoleProviderEvents[E]) => void;

/**
 * Synchronises a `Y.Doc` with the server's document of that key, and with all others who have it open.
 *
 * Local edits take effect at once; edits made while disconnected are merged on reconnecting. Remote edits have the
 * provider as their origin, so that an `UndoManager` undoes only the user's own.
 *
 * @example
 * ```ts
 * const doc = new Y.Doc();
 * const provider = new DatasoleProvider(client, 'notes', doc);
 * provider.awareness.setLocalStateField('user', { name: 'Ann', color: '#c33' });
 * new EditorView({ parent, extensions: [basicSetup, yCollab(doc.getText('text'), provider.awareness)] });
 * ```
 */
export class DatasoleProvider {
  /** Vue leaves it as it is. @internal */
  readonly __v_skip = true;
  /** The document. */
  readonly doc: Y.Doc;
  /** Cursors and names of all who have it open. */
  readonly awareness: Awareness;
  readonly #handlers: Record<string, Set<(value: any) => void>> = {};
  readonly #shared: SharedDoc;
  readonly #ends: (() => void)[];

  constructor(client: DatasoleClient<any>, key: string, doc: Y.Doc, options: DatasoleProviderOptions = {}) {
    this.doc = doc;
    this.awareness = options.awareness ?? new Awareness(doc);
    const found = client.streams.all.get(`doc ${key}`)?.stream as SharedDoc | undefined;
    const shared = (this.#shared = found ?? new SharedDoc(client, key, options.awarenessThrottle));
    const destroy = () => this.destroy();
    doc.on('destroy', destroy);
    shared.join(this);
    let shown: Record<string, unknown> | null = null;
    const hide = () => {
      shown = this.awareness.getLocalState();
      this.awareness.setLocalState(null);
    };
    this.#ends = [
      client.onStatus(({ state }) => {
        if (state !== 'connected') shared.lost();
        this.emit('status', state);
      }),
      // A page in the back/forward cache is absent for others.
      whileCached(hide, () => shown && this.awareness.setLocalState(shown)),
      () => doc.off('destroy', destroy),
      () => shared.leave(this),
      // An awareness made for this provider has an interval, which ends.
      () => options.awareness || this.awareness.destroy(),
    ];
  }

  /** True once this document has all changes the server had when this connection began, and the server all local ones. */
  get synced(): boolean {
    return this.#shared.synced;
  }

  /** The number of pending local changes: not acknowledged by the server yet. */
  get pending(): number {
    return this.#shared.pending;
  }

  /** Calls `handler` for every event of that name. */
  on<E extends keyof DatasoleProviderEvents>(event: E, handler: DatasoleProviderHandler<E>): void {
    (this.#handlers[event] ??= new Set()).add(handler);
  }

  /** Ends {@link on}. */
  off<E extends keyof DatasoleProviderEvents>(event: E, handler: DatasoleProviderHandler<E>): void {
    this.#handlers[event]?.delete(handler);
  }

  /** Leaves the document, which stays as it is; {@link pending} changes are still sent, now or on reconnecting. */
  destroy(): void {
    for (const end of this.#ends.splice(0)) end();
  }

  /** @internal */
  emit<E extends keyof DatasoleProviderEvents>(event: E, value: DatasoleProviderEvents[E]): void {
    call<any>(this.#handlers[event] ?? new Set(), value);
  }
}

/** The last clock that a document's own awareness was announced with: the next one's begins later. */
const clocks = new WeakMap<Y.Doc, number>();

/** An open document: answers the core's questions, hands over local edits; one for all providers of a key, whatever their `Y.Doc`s. */
class SharedDoc implements Stream {
  readonly #providers = new Set<DatasoleProvider>();
  /** Own clients of the awareness, and those that have left. */
  readonly #clients = new Set<number>();
  readonly #port: Port;
  /** The document that answers the core: a provider's or, once all have left, a copy from the last one. */
  #doc?: Y.Doc;
  /** The number of local edits, and of those that are stored. */
  #made = 0;
  #stored = 0;
  /** Refused as it is: it will not be stored before it changes. */
  #refused = false;
  /** An update is applied that may place what a document was missing. */
  #completes = false;
  synced = false;

  constructor(client: DatasoleClient<any>, key: string, throttle?: number) {
    this.#port = client.streams.open({ kind: 'doc', key }, this, throttle);
  }

  get pending(): number {
    return this.#made - this.#stored;
  }

  /** Synchronises a provider's document and awareness with the server's and those of the other providers. */
  join(provider: DatasoleProvider): void {
    const { doc, awareness } = provider;
    const other = this.#doc;
    this.#port.follow(true);
    this.#doc = doc;
    this.#providers.add(provider);
    // Several providers of one document have one listener: the function is the same.
    doc.on('update', this.#edited);
    awareness.on('update', this.#moved);
    const own = awareness.meta.get(awareness.clientID);
    if (own) own.clock = Math.max(own.clock, (clocks.get(doc) ?? -1) + 1);
    this.#announce();
    if (!other || other === doc) return;
    Y.applyUpdate(other, Y.encodeStateAsUpdate(doc, Y.encodeStateVector(other)));
    Y.applyUpdate(doc, Y.encodeStateAsUpdate(other, Y.encodeStateVector(doc)), provider);
  }

  leave(provider: DatasoleProvider): void {
    const { doc, awareness } = provider;
    awareness.setLocalState(null);
    this.#providers.delete(provider);
    const rest = [...this.#providers];
    if (!rest.some((one) => one.doc === doc)) doc.off('update', this.#edited);
    if (!rest.some((one) => one.awareness === awareness)) awareness.off('update', this.#moved);
    this.#doc = rest[0]?.doc;
    if (this.#doc) return;
    this.#port.follow(false);
    if (!this.pending || this.#refused) return this.#port.close();
    // Later edits in this document are not shared.
    this.#doc = new Y.Doc();
    Y.applyUpdate(this.#doc, Y.encodeStateAsUpdate(doc));
    this.#doc.on('update', this.#edited);
  }

  renew(): void {
    // Earlier edits are in the document, and are found by the state vectors; this stands for them.
    if (this.pending) this.#port.send({ t: 'edit', id: this.#made, bytes: new Uint8Array(2) });
    this.#announce();
  }

  progress({ phase, stored }: StreamMessage & { t: 'progress' }): void {
    const before = this.pending;
    this.#stored = Math.max(this.#stored, stored);
    this.#refused = phase === 'refused';
    this.#setSynced(phase === 'synced');
    if (this.pending !== before) this.#tell('pending', this.pending);
    if ((!this.pending || this.#refused) && !this.#providers.size) this.#port.close();
  }

  entry(_: unknown, [update]: Uint8Array[]): void {
    for (const [doc, provider] of this.#docs()) {
      // What was missing may be the server's, what waits for it an own edit: the server is told of both.
      this.#completes = !!(doc.store.pendingStructs || doc.store.pendingDs);
      Y.applyUpdate(doc, update!, provider);
      this.#completes = false;
    }
  }

  awareness(_: unknown, [update]: Uint8Array[]): void {
    for (const one of this.#providers) applyAwarenessUpdate(one.awareness, update!, one);
  }

  ask({ what }: StreamMessage & { t: 'ask' }, given: Uint8Array[]): Uint8Array | void {
    if (what === 'stateVector') return Y.encodeStateVector(this.#doc!);
    if (what === 'merge') return Y.mergeUpdates(given);
    if (what !== 'awareness') return difference(this.#doc!, given[0], what === 'smallest');
    // Others may have been told that this client is gone, with the next clock.
    for (const { awareness } of this.#providers) {
      const own = awareness.meta.get(awareness.clientID);
      if (own) own.clock += 2;
    }
    this.#announce();
  }

  failed(error: unknown): void {
    if (this.#providers.size) this.#tell('error', error);
    else report(error);
  }

  readonly #edited = (update: Uint8Array, origin: unknown, from: Y.Doc): void => {
    if (this.#providers.has(origin as DatasoleProvider) && !this.#completes) return;
    this.#port.send({ t: 'edit', id: ++this.#made, bytes: new Uint8Array(update) });
    for (const [doc, provider] of this.#docs()) if (doc !== from) Y.applyUpdate(doc, update, provider);
    this.#tell('pending', this.pending);
  };

  readonly #moved = (_: unknown, origin: unknown): void => {
    if (!this.#providers.has(origin as DatasoleProvider)) this.#announce();
  };

  /** Hands a local change to the core and to the other providers. */
  #announce(): void {
    for (const { doc, awareness } of this.#providers) {
      const { clientID, meta } = awareness;
      // No client was ever announced.
      if (!meta.has(clientID)) continue;
      clocks.set(doc, meta.get(clientID)!.clock);
      const update = encodeAwarenessUpdate(awareness, [clientID]);
      this.#clients.add(clientID);
      for (const one of this.#providers) if (one.awareness !== awareness) applyAwarenessUpdate(one.awareness, update, one);
    }
    const [first] = this.#providers;
    const clients = [...this.#clients].filter((id) => first?.awareness.meta.has(id));
    if (clients.length) this.#port.send({ t: 'aware', bytes: encodeAwarenessUpdate(first!.awareness, clients) });
  }

  /** The server announces the present clients again, maybe with the same clock. */
  lost(): void {
    this.#setSynced(false);
    for (const one of this.#providers) {
      const { states, meta } = one.awareness;
      const others = [...states.keys()].filter((id) => !this.#clients.has(id));
      removeAwarenessStates(one.awareness, others, one);
      for (const id of others) meta.delete(id);
    }
  }

  #setSynced(synced: boolean): void {
    if (synced !== this.synced) this.#tell('synced', (this.synced = synced));
  }

  #tell(...event: Parameters<DatasoleProvider['emit']>): void {
    for (const one of this.#providers) one.emit(...event);
  }

  /** Each document once, with a provider. */
  #docs(): Map<Y.Doc, DatasoleProvider> {
    return new Map([...this.#providers].map((one) => [one.doc, one]));
  }
}

/**
 * All that a document has beyond a state vector, without what it could not place: an update whose predecessor is
 * missing, which the server could not place either. `small`: also without deleted content that an undo manager keeps.
 */
function difference(doc: Y.Doc, stateVector?: Uint8Array, small?: boolean): Uint8Array {
  const { store } = doc;
  const { pendingStructs, pendingDs } = store;
  store.pendingStructs = store.pendingDs = null;
  try {
    const copy = small ? new Y.Doc() : doc;
    if (small) Y.applyUpdate(copy, Y.encodeStateAsUpdate(doc));
    return Y.encodeStateAsUpdate(copy, stateVector);
  } finally {
    Object.assign(store, { pendingStructs, pendingDs });
  }
}
