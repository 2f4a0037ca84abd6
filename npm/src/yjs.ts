/**
 * Yjs documents on a client's one connection: {@link DatasoleProvider}. Needs `yjs` and `y-protocols`.
 *
 * @packageDocumentation
 */
import { applyAwarenessUpdate, Awareness, encodeAwarenessUpdate, removeAwarenessStates } from 'y-protocols/awareness';
import * as Y from 'yjs';
import type { Channel, DatasoleClient } from './client.js';
import { refused, type DatasoleError } from './errors.js';
import { call, throttled } from './handlers.js';
import type { ConnectionState } from './status.js';

/** Options of a {@link DatasoleProvider}. */
export interface DatasoleProviderOptions {
  /** Cursors and names. Default: a new one for the document, which ends with the provider. */
  awareness?: Awareness;
  /** Changes of this client's awareness leave at most this often, the last one always. Default 50 ms. */
  awarenessThrottle?: number;
}

/** The part of a client that a provider needs. */
export type ChannelClient = Pick<DatasoleClient, 'openChannel' | 'onStatus'>;

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

/** The first bytes of messages. */
const SYNC = 0;
const AWARENESS = 1;
/** The second byte of those that begin with `SYNC`. */
const STATE_VECTOR = 0;
const DIFFERENCE = 1;
const UPDATE = 2;

/** More updates wait for answers, and then go together. */
const MAX_UNANSWERED = 32;

/** Those of one client and key: the server tells a connection nothing of what it has said itself. */
const siblings = new WeakMap<ChannelClient, Map<string, Set<DatasoleProvider>>>();

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
  readonly #open: () => Channel;
  readonly #ends: (() => void)[];
  readonly #siblings: Set<DatasoleProvider>;
  #channel: Channel;
  #synced = false;
  /** The server has said what it lacks and is being told: updates may follow. */
  #ready = false;
  /** Begins anew with every answer to that. What was under way before does not count: the answer has it too. */
  #round = 0;
  #unanswered = 0;
  /** Local changes: on their way, and not. */
  #sent = 0;
  #unsent = 0;
  /** The latter, where they may follow. */
  #waiting: Uint8Array[] = [];
  #shown = 0;

  constructor(client: ChannelClient, key: string, doc: Y.Doc, options: DatasoleProviderOptions = {}) {
    this.doc = doc;
    const awareness = (this.awareness = options.awareness ?? new Awareness(doc));
    const announce = throttled(() => this.#announce(), options.awarenessThrottle ?? 50);
    const edited = (update: Uint8Array, origin: unknown) => {
      if (origin !== this) this.#edited(update);
    };
    const moved = (_: unknown, origin: unknown) => {
      if (origin !== this) announce();
    };
    const destroy = () => this.destroy();
    this.#open = () =>
      client.openChannel('doc', key, {
        subscribed: () => this.#greet(),
        entry: (message) => this.#receive(message as Uint8Array),
        refused: (error) => this.#emit('error', error),
      });
    this.#channel = this.#open();
    this.#siblings = join(client, key, this);
    doc.on('update', edited);
    doc.on('destroy', destroy);
    awareness.on('update', moved);
    this.#ends = [
      client.onStatus(({ state }) => this.#statusChanged(state)),
      hideWithPage(awareness),
      () => this.#siblings.delete(this),
      () => doc.off('update', edited),
      () => doc.off('destroy', destroy),
      () => awareness.off('update', moved),
      // One made for this provider has an interval, which ends.
      () => options.awareness || awareness.destroy(),
    ];
  }

  /** Whether all that the server had when this connection began is here. */
  get synced(): boolean {
    return this.#synced;
  }

  /** How many local changes the server has not confirmed. */
  get pending(): number {
    return this.#sent + this.#unsent;
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
    const ends = this.#ends.splice(0);
    if (!ends.length) return;
    this.awareness.setLocalState(null);
    this.#announce();
    for (const end of ends) end();
    this.#leave();
  }

  /** Once it has been destroyed, and has nothing more to send. */
  #leave(): void {
    if (this.#ends.length || this.pending) return;
    this.#begin(false);
    this.#channel.close();
  }

  /** Asks what the server has beyond this. It asks the same. */
  #greet(): void {
    this.#begin(false);
    this.#channel.notify(message(SYNC, STATE_VECTOR, Y.encodeStateVector(this.doc)));
    // The end of the last connection was announced with the next clock: be later than that.
    const { clientID, meta } = this.awareness;
    const own = meta.get(clientID);
    if (own) own.clock += 2;
    this.#announce();
  }

  #receive(received: Uint8Array): void {
    try {
      const [kind, step] = received;
      if (!this.#ends.length && (kind !== SYNC || step !== STATE_VECTOR)) return;
      if (kind === AWARENESS) return applyAwarenessUpdate(this.awareness, content(received, 1), this);
      if (kind !== SYNC) return;
      if (step === STATE_VECTOR) {
        this.#begin(true);
        return this.#submit(DIFFERENCE, Y.encodeStateAsUpdate(this.doc, content(received, 2)));
      }
      Y.applyUpdate(this.doc, content(received, 2), this);
      if (step === DIFFERENCE) this.#setSynced(true);
    } catch (error) {
      this.#emit('error', error);
    }
  }

  /** Nothing is on its way any more. */
  #begin(ready: boolean): void {
    this.#ready = ready;
    this.#round++;
    this.#unsent += this.#sent;
    this.#sent = this.#unanswered = 0;
    this.#waiting = [];
  }

  #edited(update: Uint8Array): void {
    this.#unsent++;
    if (this.#ready) {
      this.#waiting.push(update);
      this.#flush();
    }
    this.#count();
  }

  /** What could not go alone goes together. */
  #flush(): void {
    const waiting = this.#waiting;
    if (!waiting.length || this.#unanswered >= MAX_UNANSWERED) return;
    this.#waiting = [];
    this.#submit(UPDATE, waiting.length > 1 ? Y.mergeUpdates(waiting) : waiting[0]!);
  }

  #submit(step: number, update: Uint8Array): void {
    const round = this.#round;
    const changes = this.#unsent;
    this.#sent += changes;
    this.#unsent = 0;
    this.#unanswered++;
    const answered = () => {
      this.#sent -= changes;
      this.#unanswered--;
      this.#flush();
      this.#count();
      this.#leave();
    };
    for (const other of this.#siblings) if (other.doc !== this.doc) Y.applyUpdate(other.doc, update, other);
    this.#channel.submit(message(SYNC, step, update)).then(
      () => {
        if (round === this.#round) answered();
      },
      (error: DatasoleError) => {
        if (round !== this.#round) return;
        if (!refused(error, this.#again)) return this.#begin(false);
        answered();
        // A reader's answer may hold deletions that all have.
        if (changes || update[0]) this.#emit('error', error);
      },
    );
  }

  /** Both sides ask again. */
  readonly #again = (): void => {
    if (!this.#ends.length && !this.pending) return;
    this.#channel.close();
    this.#channel = this.#open();
  };

  /** To the others, where this client is. */
  #announce(): void {
    const { clientID, meta } = this.awareness;
    // Nothing was ever said.
    if (!meta.has(clientID)) return;
    const update = encodeAwarenessUpdate(this.awareness, [clientID]);
    this.#channel.notify(message(AWARENESS, update));
    for (const other of this.#siblings) {
      if (other.awareness !== this.awareness) applyAwarenessUpdate(other.awareness, update, other);
    }
  }

  #statusChanged(state: ConnectionState): void {
    if (state !== 'connected') {
      this.#setSynced(false);
      // Whoever is still there is announced again, maybe with the same clock.
      const { clientID, states, meta } = this.awareness;
      const others = [...states.keys()].filter((id) => id !== clientID);
      removeAwarenessStates(this.awareness, others, this);
      for (const id of others) meta.delete(id);
    }
    this.#emit('status', state);
  }

  #setSynced(synced: boolean): void {
    if (synced === this.#synced) return;
    this.#synced = synced;
    this.#emit('synced', synced);
  }

  #count(): void {
    const { pending } = this;
    if (pending === this.#shown) return;
    this.#shown = pending;
    this.#emit('pending', pending);
  }

  #emit<E extends keyof DatasoleProviderEvents>(event: E, value: DatasoleProviderEvents[E]): void {
    call<any>(this.#handlers.get(event) ?? new Set(), value);
  }
}

/** Those that have the same document open, with one more. */
function join(client: ChannelClient, key: string, provider: DatasoleProvider): Set<DatasoleProvider> {
  const keys = siblings.get(client) ?? new Map<string, Set<DatasoleProvider>>();
  const all = keys.get(key) ?? new Set<DatasoleProvider>();
  siblings.set(client, keys.set(key, all.add(provider)));
  return all;
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

/** Leading bytes, and the last part with its length. */
function message(...parts: [...kind: number[], content: Uint8Array]): Uint8Array {
  const content = parts.pop() as Uint8Array;
  const head = parts as number[];
  let length = content.length;
  for (; length > 127; length = Math.floor(length / 128)) head.push((length % 128) | 128);
  head.push(length);
  const bytes = new Uint8Array(head.length + content.length);
  bytes.set(head);
  bytes.set(content, head.length);
  return bytes;
}

/** What comes after a length. Throws where there is less. */
function content(message: Uint8Array, at: number): Uint8Array {
  let length = 0;
  for (let scale = 1; ; scale *= 128) {
    const byte = message[at++] ?? 0;
    length += (byte % 128) * scale;
    if (byte < 128) break;
  }
  if (at + length > message.length) throw new RangeError('a message is shorter than it says');
  return message.subarray(at, at + length);
}
