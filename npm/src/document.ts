/**
 * The Yjs documents of a client: {@link SharedDoc} answers the core's questions about one, and hands over local edits.
 */
import { applyAwarenessUpdate, encodeAwarenessUpdate, removeAwarenessStates, type Awareness } from 'y-protocols/awareness';
import * as Y from 'yjs';
import type { DatasoleClient } from './slim.js';
import { report } from './errors.js';
import type { StreamMessage } from './protocol.js';
import type { Port, Stream } from './streams.js';

/** A sharer of a document: synchronises a document of its own with the shared one, and hears its events. */
export interface Sharer {
  readonly doc: Y.Doc;
  readonly awareness: Awareness;
  emit(event: 'synced' | 'pending' | 'status' | 'error', value: any): void;
}

/** The last clock that a document's own awareness was announced with: the next one's begins later. */
const clocks = new WeakMap<Y.Doc, number>();

/** A document that is open: one for all who share it, each with a `Y.Doc` of its own or that of another. */
export class SharedDoc implements Stream {
  readonly #sharers = new Set<Sharer>();
  /** Own clients of the awareness, and those that have left. */
  readonly #clients = new Set<number>();
  readonly #port: Port;
  readonly #close: () => void;
  /** The document that answers the core: a sharer's or, once all have left, a copy from the last one. */
  #doc?: Y.Doc;
  /** The number of local edits, and of those that are stored. */
  #made = 0;
  #stored = 0;
  /** Refused as it is: it will not be stored before it changes. */
  #refused = false;
  /** Something was refused, and not everything stored since. */
  #rejected = false;
  /** An update is applied that may place what a document was missing. */
  #completes = false;
  synced = false;

  constructor(client: DatasoleClient<any>, key: string, throttle?: number) {
    this.#port = client.streams.open({ kind: 'doc', key }, this, throttle);
    const end = client.onStatus(({ state }) => {
      if (state !== 'connected') this.#lost();
      this.#tell('status', state);
    });
    this.#close = () => (end(), this.#port.close());
  }

  get pending(): number {
    return this.#made - this.#stored;
  }

  /** Synchronises a sharer's document and awareness with the server's and those of the other sharers. */
  join(sharer: Sharer): void {
    const { doc, awareness } = sharer;
    const other = this.#doc;
    if (other && !this.#sharers.size) this.#port.send({ t: 'open' });
    this.#doc = doc;
    this.#sharers.add(sharer);
    // Several sharers of one document have one listener: the function is the same.
    doc.on('update', this.#edited);
    awareness.on('update', this.#moved);
    const own = awareness.meta.get(awareness.clientID);
    if (own) own.clock = Math.max(own.clock, (clocks.get(doc) ?? -1) + 1);
    this.#announce();
    if (!other || other === doc) return;
    Y.applyUpdate(other, Y.encodeStateAsUpdate(doc, Y.encodeStateVector(other)));
    Y.applyUpdate(doc, Y.encodeStateAsUpdate(other, Y.encodeStateVector(doc)), sharer);
  }

  leave(sharer: Sharer): void {
    const { doc, awareness } = sharer;
    awareness.setLocalState(null);
    this.#sharers.delete(sharer);
    const rest = [...this.#sharers];
    if (!rest.some((one) => one.doc === doc)) doc.off('update', this.#edited);
    if (!rest.some((one) => one.awareness === awareness)) awareness.off('update', this.#moved);
    this.#doc = rest[0]?.doc;
    if (this.#doc) return;
    this.#port.send({ t: 'leave' });
    if (!this.pending || this.#refused) return this.#close();
    // Later edits in this document are not shared.
    this.#doc = new Y.Doc();
    Y.applyUpdate(this.#doc, Y.encodeStateAsUpdate(doc));
    this.#doc.on('update', this.#edited);
  }

  renew(): void {
    // Earlier edits are in the document, and are found by the state vectors.
    if (this.pending) this.#port.send({ t: 'edit', id: this.#made, bytes: new Uint8Array(2) });
    if (this.#sharers.size) this.#announce();
    else this.#port.send({ t: 'leave' });
  }

  progress({ phase, stored }: StreamMessage & { t: 'progress' }): void {
    const before = this.pending;
    this.#stored = Math.max(this.#stored, stored);
    this.#refused = phase === 'refused';
    this.#rejected = this.#refused || (this.#rejected && phase !== 'synced');
    this.#setSynced(phase === 'synced');
    if (this.pending !== before) this.#tell('pending', this.pending);
    if ((!this.pending || this.#refused) && !this.#sharers.size) this.#close();
  }

  entry(_: unknown, [update]: Uint8Array[]): void {
    for (const [doc, sharer] of this.#docs()) {
      // What was missing may be the server's, what waits for it an own edit: the server is told of both.
      this.#completes = !!(doc.store.pendingStructs || doc.store.pendingDs);
      Y.applyUpdate(doc, update!, sharer);
      this.#completes = false;
    }
  }

  awareness(_: unknown, [update]: Uint8Array[]): void {
    for (const one of this.#sharers) applyAwarenessUpdate(one.awareness, update!, one);
  }

  ask({ what }: StreamMessage & { t: 'ask' }, given: Uint8Array[]): void {
    const answer = (bytes: Uint8Array) => this.#port.send({ t: 'answer', bytes });
    if (what === 'stateVector') return answer(Y.encodeStateVector(this.#doc!));
    if (what === 'difference') return answer(difference(this.#doc!, given[0], this.#rejected));
    if (what === 'merge') return answer(Y.mergeUpdates(given));
    // Others may have been told that this client is gone, with the next clock.
    for (const { awareness } of this.#sharers) {
      const own = awareness.meta.get(awareness.clientID);
      if (own) own.clock += 2;
    }
    this.#announce();
  }

  failed(error: unknown): void {
    if (this.#sharers.size) this.#tell('error', error);
    else report(error);
  }

  readonly #edited = (update: Uint8Array, origin: unknown, from: Y.Doc): void => {
    if (this.#sharers.has(origin as Sharer) && !this.#completes) return;
    this.#port.send({ t: 'edit', id: ++this.#made, bytes: new Uint8Array(update) });
    for (const [doc, sharer] of this.#docs()) if (doc !== from) Y.applyUpdate(doc, update, sharer);
    this.#tell('pending', this.pending);
  };

  readonly #moved = (_: unknown, origin: unknown): void => {
    if (!this.#sharers.has(origin as Sharer)) this.#announce();
  };

  /** Hands a local change to the core and to the other sharers. */
  #announce(): void {
    for (const { doc, awareness } of this.#sharers) {
      const { clientID, meta } = awareness;
      // No client was ever announced.
      if (!meta.has(clientID)) continue;
      clocks.set(doc, meta.get(clientID)!.clock);
      const update = encodeAwarenessUpdate(awareness, [clientID]);
      this.#clients.add(clientID);
      for (const one of this.#sharers) if (one.awareness !== awareness) applyAwarenessUpdate(one.awareness, update, one);
    }
    const [first] = this.#sharers;
    const clients = [...this.#clients].filter((id) => first?.awareness.meta.has(id));
    if (clients.length) this.#port.send({ t: 'aware', bytes: encodeAwarenessUpdate(first!.awareness, clients) });
  }

  /** Announces the present clients again, maybe with the same clock. */
  #lost(): void {
    this.#setSynced(false);
    for (const one of this.#sharers) {
      const { states, meta } = one.awareness;
      const others = [...states.keys()].filter((id) => !this.#clients.has(id));
      removeAwarenessStates(one.awareness, others, one);
      for (const id of others) meta.delete(id);
    }
  }

  #setSynced(synced: boolean): void {
    if (synced !== this.synced) this.#tell('synced', (this.synced = synced));
  }

  #tell(...event: Parameters<Sharer['emit']>): void {
    for (const one of this.#sharers) one.emit(...event);
  }

  /** Each document once, with a sharer. */
  #docs(): Map<Y.Doc, Sharer> {
    return new Map([...this.#sharers].map((one) => [one.doc, one]));
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
