/** Yjs documents that components share: {@link openDocument}. */
import * as Y from 'yjs';
import { call, listen } from './handlers.js';
import { Kept } from './kept.js';
import { perObject, type Readable } from './readable.js';
import type { DatasoleClient } from './slim.js';
import { LINGER_MS } from './store.js';
import { DatasoleProvider } from './yjs.js';

/** A document at a moment. */
export interface DocumentState {
  doc: Y.Doc;
  /** Synchronises the document while somebody follows it; `undefined` before, and on a server that renders pages. */
  provider: DatasoleProvider | undefined;
  /** True once all changes of the server are here, and the server has all of this document. */
  synced: boolean;
  /** The number of local changes that the server has not acknowledged. */
  pending: number;
  /** The error of a change that the server refused, as long as it is pending. */
  error: unknown;
}

class OpenDocument implements Readable<DocumentState> {
  readonly #doc = new Y.Doc();
  readonly #readers = new Set<() => void>();
  #provider?: DatasoleProvider;
  #closing?: ReturnType<typeof setTimeout>;
  /** The awareness of the last reader. */
  #own: Record<string, unknown> | null = null;
  #error: unknown;
  #last?: DocumentState;

  constructor(
    private readonly client: DatasoleClient<any>,
    private readonly key: string,
  ) {}

  readonly subscribe = (changed: () => void) => {
    const end = listen(this.#readers, changed);
    clearTimeout(this.#closing);
    if (!this.#provider) this.#open();
    // A reader that comes back is seen again.
    else if (this.#readers.size === 1) this.#provider.awareness.setLocalState(this.#own ?? {});
    return () => {
      if (!end() || this.#readers.size) return;
      // Fields cannot be set while there is none: components do, before the first one is back.
      this.#own = this.#provider!.awareness.getLocalState();
      this.#provider!.awareness.setLocalState(null);
      this.#closing = setTimeout(() => this.#close(), LINGER_MS);
    };
  };

  readonly getSnapshot = (): DocumentState => {
    const { synced = false, pending = 0 } = this.#provider ?? {};
    if (!pending) this.#error = undefined;
    const [last, provider, error] = [this.#last, this.#provider, this.#error];
    const same = last?.provider === provider && last?.synced === synced && last.pending === pending && last.error === error;
    return same ? last! : (this.#last = { doc: this.#doc, provider, synced, pending, error });
  };

  #open(): void {
    const provider = new DatasoleProvider(this.client, this.key, this.#doc);
    const tell = () => call(this.#readers);
    provider.on('synced', tell);
    provider.on('pending', tell);
    provider.on('error', (error) => {
      this.#error = error;
      tell();
    });
    this.#provider = provider;
  }

  /** Changes that are pending are sent nevertheless. */
  #close(): void {
    this.#provider?.destroy();
    this.#provider = undefined;
  }
}

const documentsOf = perObject((_client: object) => new Kept<OpenDocument>());

/**
 * The document of a key: one for all who ask for it, synchronised while somebody subscribes and 5 s longer; the same `Y.Doc` as long as it
 * is in use.
 */
export function openDocument(client: DatasoleClient<any>, key: string): Readable<DocumentState> {
  return documentsOf(client).get(key, () => new OpenDocument(client, key));
}
