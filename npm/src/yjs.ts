/**
 * Yjs documents on a client's one connection: {@link DatasoleProvider}. Needs `yjs` and `y-protocols`.
 *
 * @packageDocumentation
 */
import { Awareness } from 'y-protocols/awareness';
import type * as Y from 'yjs';
import type { DatasoleClient } from './slim.js';
import { SharedDoc } from './document.js';
import { call } from './handlers.js';
import { whileCached } from './lifecycle.js';
import type { ConnectionState } from './status.js';

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
  /**
   * The server refused a local change (read-only, too large, a document inside this one) or sent a malformed message.
   * See `code`. The change stays pending, with all later ones, until one of those undoes it.
   */
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
  readonly #handlers = new Map<string, Set<(value: any) => void>>();
  readonly #shared: SharedDoc;
  readonly #ends: (() => void)[];

  constructor(client: DatasoleClient<any>, key: string, doc: Y.Doc, options: DatasoleProviderOptions = {}) {
    this.doc = doc;
    this.awareness = options.awareness ?? new Awareness(doc);
    const open = client.streams.find('doc', key) as SharedDoc | undefined;
    const shared = (this.#shared = open ?? new SharedDoc(client, key, options.awarenessThrottle));
    const destroy = () => this.destroy();
    doc.on('destroy', destroy);
    shared.join(this);
    let shown: Record<string, unknown> | null = null;
    const hide = () => {
      shown = this.awareness.getLocalState();
      this.awareness.setLocalState(null);
    };
    this.#ends = [
      // A page in the back/forward cache is absent for others.
      whileCached(hide, () => shown && this.awareness.setLocalState(shown)),
      () => doc.off('destroy', destroy),
      () => shared.leave(this),
      // An awareness made for this provider has an interval, which ends.
      () => options.awareness || this.awareness.destroy(),
    ];
  }

  /**
   * True once this document has all changes that the server had when this connection began, and the server all local
   * ones.
   */
  get synced(): boolean {
    return this.#shared.synced;
  }

  /** The number of pending local changes: not acknowledged by the server yet. */
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
   * Leaves the document: others no longer see this client's cursor, nor this document their changes. {@link pending}
   * changes are still sent, now or on reconnecting. The `Y.Doc` stays as it is, for another provider.
   */
  destroy(): void {
    for (const end of this.#ends.splice(0)) end();
  }

  /** @internal */
  emit<E extends keyof DatasoleProviderEvents>(event: E, value: DatasoleProviderEvents[E]): void {
    call<any>(this.#handlers.get(event) ?? new Set(), value);
  }
}
