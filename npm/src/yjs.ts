/**
 * Yjs documents on a client's one connection: {@link DatasoleProvider}. Needs `yjs` and `y-protocols`.
 *
 * @packageDocumentation
 */
import { applyAwarenessUpdate, Awareness, encodeAwarenessUpdate, removeAwarenessStates } from 'y-protocols/awareness';
import * as Y from 'yjs';
import type { DatasoleClient } from './client.js';
import { report } from './errors.js';
import { call } from './handlers.js';
import type { StreamMessage } from './protocol.js';
import type { ConnectionState } from './status.js';
import type { Port, Stream } from './streams.js';

/** Options of a {@link DatasoleProvider}. */
export interface DatasoleProviderOptions {
  /** Cursors and names. Default: a new one for the document, which ends with the provider. */
  awareness?: Awareness;
  /** Changes of this client's awareness leave at most this often, the last one always. Default 50 ms. */
  awarenessThrottle?: number;
}

/** What a {@link DatasoleProvider} tells, by event. */
export interface DatasoleProviderEvents {
  /** Whether all that the server has is here. */
  synced: boolean;
  /** How many local changes the server has not confirmed. */
  pending: number;
  /** The connection. */
  status: ConnectionState;
  /** The server refused a local change (read-only, too large) or sent what makes no sense. See `code`. */
  error: unknown;
}

/** A handler of an event. */
export type DatasoleProviderHandler<E extends keyof DatasoleProviderEvents> = (value: DatasoleProviderEvents[E]) => void;

/**
 * Keeps a `Y.Doc` equal to the server's document of that key, and to those of all others who have it open.
 *
 * Local edits take effect at once; what is edited without a connection is merged with the next one. Remote edits have the
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
  /** The document. */
  readonly doc: Y.Doc;
  /** Cursors and names of all who have it open. */
  readonly awareness: Awareness;
  readonly #handlers = new Map<string, Set<(value: any) => void>>();
  readonly #shared: SharedDoc;
  readonly #ends: (() => void)[];

  constructor(client: DatasoleClient<any>, key: string, doc: Y.Doc, options: DatasoleProviderOptions = {}) {
    this.doc = doc;
    this.awareness = options.awareness ?? new Awareness(doc);
    const shared = (this.#shared = SharedDoc.of(client, key, options.awarenessThrottle));
    const destroy = () => this.destroy();
    doc.on('destroy', destroy);
    shared.join(this);
    this.#ends = [
      hideWithPage(this.awareness),
      () => doc.off('destroy', destroy),
      () => shared.leave(this),
      // One made for this provider has an interval, which ends.
      () => options.awareness || this.awareness.destroy(),
    ];
  }

  /** Whether all that the server had when this connection began is here, and what was here there. */
  get synced(): boolean {
    return this.#shared.synced;
  }

  /** How many local changes the server has not confirmed. */
  get pending(): number {
    return this.#shared.pending;
  }

  /** Calls `handler` for every event of that name. */
  on<E extends keyof DatasoleProviderEvents>(event: E, handler: DatasoleProviderHandler<E>): void {
    let handlers = this.#handlers.get(event);
    if (!handlers) this.#handlers.set(event, (handlers = new Set()));
    handlers.add(handler);
  }

  /** Ends {@link on}. */
  off<E extends keyof DatasoleProviderEvents>(event: E, handler: DatasoleProviderHandler<E>): void {
    this.#handlers.get(event)?.delete(handler);
  }

  /**
   * Leaves the document: for others the cursor vanishes, and nothing is heard of them any more. What is {@link pending}
   * is still sent, now or when there is a connection. The `Y.Doc` stays as it is, for another provider.
   */
  destroy(): void {
    for (const end of this.#ends.splice(0)) end();
  }

  /** @internal */
  emit<E extends keyof DatasoleProviderEvents>(event: E, value: DatasoleProviderEvents[E]): void {
    call<any>(this.#handlers.get(event) ?? new Set(), value);
  }
}

/** A document that is open: one for all providers of a client and key. */
class SharedDoc implements Stream {
  static readonly #all = new WeakMap<object, Map<string, SharedDoc>>();
  readonly #providers = new Set<DatasoleProvider>();
  readonly #port: Port;
  readonly #ends: (() => void)[];
  /** Own clients of the awareness, and those that have left. */
  readonly #clients = new Set<number>();
  /** Answers the core: a provider's or, once all have left, what the last one left behind. */
  #doc?: Y.Doc;
  /** Local changes, those that have an outcome, and what was told of both. */
  #made = 0;
  #settled = 0;
  #pending = 0;
  synced = false;

  /** The one that is open, or a new one. */
  static of(client: DatasoleClient<any>, key: string, throttle?: number): SharedDoc {
    const all = SharedDoc.#all.get(client) ?? new Map<string, SharedDoc>();
    SharedDoc.#all.set(client, all);
    return all.get(key) ?? new SharedDoc(client, key, throttle, all);
  }

  constructor(client: DatasoleClient<any>, key: string, throttle: number | undefined, all: Map<string, SharedDoc>) {
    all.set(key, this);
    this.#port = client.streams.open({ kind: 'doc', key }, this, throttle);
    const end = client.onStatus(({ state }) => {
      if (state !== 'connected') this.#lost();
      this.#tell('status', state);
    });
    this.#ends = [end, () => all.delete(key), () => this.#port.close()];
  }

  get pending(): number {
    return this.#made - this.#settled;
  }

  /** Keeps a provider's document and awareness in step with the server's and those of the other providers. */
  join(provider: DatasoleProvider): void {
    const { doc, awareness } = provider;
    const other = this.#doc;
    if (other && !this.#providers.size) this.#port.send({ t: 'open' });
    this.#doc = doc;
    this.#providers.add(provider);
    // Several providers of one document have one listener: the function is the same.
    doc.on('update', this.#edited);
    awareness.on('update', this.#moved);
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
    this.#port.send({ t: 'leave' });
    if (!this.pending) return this.#close();
    // What is made there from here on is not for others.
    this.#doc = new Y.Doc();
    Y.applyUpdate(this.#doc, Y.encodeStateAsUpdate(doc));
    this.#doc.on('update', this.#edited);
  }

  renew(): void {
    // What was made before is in the document, and is found when the two are compared.
    if (this.pending) this.#port.send({ t: 'edit', id: this.#made, bytes: new Uint8Array(2) });
    if (this.#providers.size) this.#announce();
    else this.#port.send({ t: 'leave' });
  }

  progress({ phase, stored }: StreamMessage & { t: 'progress' }): void {
    this.#settled = phase === 'refused' ? this.#made : Math.max(this.#settled, stored);
    this.#setSynced(phase === 'synced');
    this.#count();
    if (!this.#providers.size && !this.pending) this.#close();
  }

  entry(_: unknown, [update]: Uint8Array[]): void {
    for (const [doc, provider] of this.#docs()) Y.applyUpdate(doc, update!, provider);
  }

  awareness(_: unknown, [update]: Uint8Array[]): void {
    for (const one of this.#providers) applyAwarenessUpdate(one.awareness, update!, one);
  }

  ask({ what }: StreamMessage & { t: 'ask' }, given: Uint8Array[]): void {
    const doc = this.#doc!;
    const answer = (bytes: Uint8Array) => this.#port.send({ t: 'answer', bytes });
    if (what === 'stateVector') return answer(Y.encodeStateVector(doc));
    if (what === 'difference') return answer(difference(doc, given[0]!));
    if (what === 'merge') return answer(Y.mergeUpdates(given));
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
    if (this.#providers.has(origin as DatasoleProvider)) return;
    this.#port.send({ t: 'edit', id: ++this.#made, bytes: update.slice() });
    for (const [doc, provider] of this.#docs()) if (doc !== from) Y.applyUpdate(doc, update, provider);
    this.#count();
  };

  readonly #moved = (_: unknown, origin: unknown): void => {
    if (!this.#providers.has(origin as DatasoleProvider)) this.#announce();
  };

  /** Tells the core, and the providers each other. */
  #announce(): void {
    for (const { awareness } of this.#providers) {
      const { clientID, meta } = awareness;
      // Nothing was ever said.
      if (!meta.has(clientID)) continue;
      const update = encodeAwarenessUpdate(awareness, [clientID]);
      this.#clients.add(clientID);
      for (const one of this.#providers) if (one.awareness !== awareness) applyAwarenessUpdate(one.awareness, update, one);
    }
    const [first] = this.#providers;
    const clients = [...this.#clients].filter((id) => first?.awareness.meta.has(id));
    if (clients.length) this.#port.send({ t: 'aware', bytes: encodeAwarenessUpdate(first!.awareness, clients) });
  }

  /** Whoever is still there is announced again, maybe with the same clock. */
  #lost(): void {
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

  #count(): void {
    if (this.pending !== this.#pending) this.#tell('pending', (this.#pending = this.pending));
  }

  #tell<E extends keyof DatasoleProviderEvents>(event: E, value: DatasoleProviderEvents[E]): void {
    for (const one of this.#providers) one.emit(event, value);
  }

  /** Each document once, with a provider. */
  #docs(): Map<Y.Doc, DatasoleProvider> {
    return new Map([...this.#providers].map((one) => [one.doc, one]));
  }

  #close(): void {
    for (const end of this.#ends.splice(0)) end();
  }
}

/** What a state vector lacks; of one that makes no sense, everything. */
function difference(doc: Y.Doc, theirs: Uint8Array): Uint8Array {
  try {
    return Y.encodeStateAsUpdate(doc, theirs);
  } catch {
    return Y.encodeStateAsUpdate(doc);
  }
}

/** A page in the back/forward cache is not there for others. */
function hideWithPage(awareness: Awareness): () => void {
  if (typeof addEventListener !== 'function') return () => {};
  const end = new AbortController();
  const { signal } = end;
  let state: Record<string, unknown> | null = null;
  addEventListener(
    'pagehide',
    () => {
      state = awareness.getLocalState();
      awareness.setLocalState(null);
    },
    { signal },
  );
  addEventListener('pageshow', () => state && awareness.setLocalState(state), { signal });
  return () => end.abort();
}
