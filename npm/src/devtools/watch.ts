/** What a client has done, as far as it was watched: bounded lists, for the panel to show. */
import type { FromWorker, ToWorker } from '../protocol.js';
import type { DatasoleClient } from '../slim.js';
import type { Status } from '../status.js';

/** The most that is kept of each. */
const MAX_LOG = 500;
const MAX_TIMELINE = 100;
/** Streams; those beyond that have been left go, the oldest first. */
const MAX_STREAMS = 200;
/** The time over which rates are counted, milliseconds. */
const RATE_MS = 5_000;

/** A message, for people. */
export interface Line {
  at: number;
  way: 'sent' | 'came';
  /** Of what: the message's type, and the name of a method, event or stream. */
  type: string;
  name: string;
  content: unknown;
}

/** A stream that something was heard of, or that is followed. */
export interface Watched {
  kind: string;
  key: string;
  /** When the panel first heard of it. */
  since: number;
  /** Its position's number. */
  seq?: number;
  /** When something last came. */
  at?: number;
  phase?: string;
  pending?: number;
  left?: boolean;
  error?: string;
  /** When the entries of the last seconds came. */
  recent: number[];
  /** The last entry. */
  last?: unknown;
}

/** A call that waits for its answer. */
export interface Waiting {
  method: string;
  at: number;
}

const watches = new WeakMap<DatasoleClient<any>, Watch>();

/** The watch of a client; begins when it is first asked for, and ends when the last one that {@link Watch.join joined} has left. */
export function watchOf(client: DatasoleClient<any>): Watch {
  let watch = watches.get(client);
  if (!watch) watches.set(client, (watch = new Watch(client)));
  return watch;
}

export class Watch {
  readonly client: DatasoleClient<any>;
  readonly timeline: { at: number; status: Status }[] = [];
  readonly log: Line[] = [];
  readonly streams = new Map<string, Watched>();
  /** Messages so far. */
  readonly count = { sent: 0, came: 0 };
  paused = false;
  readonly #calls = new Map<number, Waiting>();
  readonly #joined = new Set<() => void>();
  /** Stops watching. */
  readonly #stop: () => void;

  constructor(client: DatasoleClient<any>) {
    this.client = client;
    // Others set it, too, and find their own.
    let other = client.traffic;
    const tap: NonNullable<typeof client.traffic> = (what) => {
      other?.(what);
      if (Array.isArray(what)) for (const message of what) this.#came(message);
      else this.#sent(what);
      this.#changed();
    };
    Object.defineProperty(client, 'traffic', { configurable: true, get: () => tap, set: (next) => (other = next) });
    const { watchers } = client.store;
    const look = () => this.#status();
    // Not a handler of the status: where there is none, the client tells the console.
    watchers.add(look);
    this.#stop = () => {
      watchers.delete(look);
      delete client.traffic;
      if (other) client.traffic = other;
    };
    for (const [key, { handlers, read, rev }] of client.store.all) if (handlers.size || read) this.#stream('state', key).seq = rev;
    for (const name of client.streams.all.keys()) {
      const [kind, key] = [name.slice(0, name.indexOf(' ')), name.slice(name.indexOf(' ') + 1)];
      if (kind !== 'host') this.#stream(kind, key);
    }
    this.#status();
  }

  /** Calls `changed` after each change, until the function that is returned is called. */
  join(changed: () => void): () => void {
    this.#joined.add(changed);
    return () => {
      if (!this.#joined.delete(changed) || this.#joined.size) return;
      this.#stop();
      watches.delete(this.client);
    };
  }

  /** The calls that have no answer, by id. */
  get calls(): ReadonlyMap<number, Waiting> {
    for (const id of this.#calls.keys()) if (!this.client.calls.open.has(id)) this.#calls.delete(id);
    return this.#calls;
  }

  /** Entries per second, of the last seconds. */
  rate({ recent, since }: Watched): number {
    const now = Date.now();
    while (recent.length && recent[0]! < now - RATE_MS) recent.shift();
    return (recent.length * 1_000) / Math.max(1_000, Math.min(RATE_MS, now - since));
  }

  /** The value of a stream, as far as the client has it. */
  value({ kind, key, last }: Watched): unknown {
    if (kind === 'state') return this.client.store.peek(key)?.shown;
    const stream = this.client.streams.all.get(`${kind} ${key}`)?.stream as any;
    if (!stream) return last;
    return kind === 'presence' ? stream.members : (stream.crdt?.value() ?? last);
  }

  /** The number of handlers of a state; of other streams it is not known. */
  readers({ kind, key }: Watched): number | undefined {
    return kind === 'state' ? this.client.store.peek(key)?.handlers.size : undefined;
  }

  #status(): void {
    let status!: Status;
    this.client.onStatus((now) => (status = now))();
    const last = this.timeline.at(-1)?.status;
    if (last === status) return;
    this.timeline.push({ at: Date.now(), status });
    if (this.timeline.length > MAX_TIMELINE) this.timeline.shift();
    // A host that has ended has ended its calls.
    void this.calls;
    this.#changed();
  }

  #changed(): void {
    for (const changed of this.#joined) changed();
  }

  #sent(message: ToWorker): void {
    if (message.t === 'init' || ('kind' in message && message.kind === 'host')) return;
    this.count.sent++;
    switch (message.t) {
      case 'call':
        this.#calls.set(message.id, { method: message.method, at: Date.now() });
        break;
      case 'cancel':
        this.#calls.delete(message.id);
        break;
      case 'subscribe':
      case 'open':
        this.#stream(message.kind, message.key).left = false;
        break;
      case 'leave':
        this.#stream(message.kind, message.key).left = true;
    }
    const { t, json, bytes } = message as ToWorker & { json?: string; bytes?: Uint8Array };
    // The bytes are about to be handed to the worker.
    const content = json === undefined ? (bytes ? { bytes: bytes.length } : rest(message)) : JSON.parse(json);
    this.#write('sent', t, named(message), content);
  }

  #came(message: FromWorker): void {
    if ('kind' in message && message.kind === 'host') return;
    this.count.came++;
    let name = named(message);
    switch (message.t) {
      case 'done':
        name = this.#calls.get(message.id)?.method ?? `call ${message.id}`;
        this.#calls.delete(message.id);
        break;
      case 'snapshot':
      case 'patch':
        this.#entry('state', message.key, message.rev);
        break;
      case 'entry':
        this.#entry(message.kind, message.key, message.rev).last = message.data;
        break;
      case 'event':
        this.#entry('event', message.event).last = message.data;
        break;
      case 'progress': {
        const stream = this.#stream(message.kind, message.key);
        stream.phase = message.phase;
        stream.pending = message.pending;
        stream.error = message.error?.message;
        break;
      }
      case 'left':
        this.#stream(message.kind, message.key).left = true;
        break;
      case 'refused':
        // Nothing comes of it until it is asked for anew.
        if (message.what !== 'emit') Object.assign(this.#stream(message.what, message.name), { error: message.error.message, left: true });
    }
    this.#write('came', message.t, name, rest(message));
  }

  #stream(kind: string, key: string): Watched {
    const name = `${kind} ${key}`;
    let stream = this.streams.get(name);
    if (stream) return stream;
    this.streams.set(name, (stream = { kind, key, since: Date.now(), recent: [] }));
    if (this.streams.size > MAX_STREAMS) {
      for (const [name, { left }] of this.streams) if (left) return this.streams.delete(name), stream;
    }
    return stream;
  }

  #entry(kind: string, key: string, seq?: number): Watched {
    const stream = this.#stream(kind, key);
    stream.at = Date.now();
    stream.seq = seq ?? stream.seq;
    stream.left = false;
    stream.recent.push(stream.at);
    this.rate(stream);
    return stream;
  }

  #write(way: Line['way'], type: string, name: string, content: unknown): void {
    if (this.paused) return;
    this.log.push({ at: Date.now(), way, type, name, content });
    if (this.log.length > MAX_LOG) this.log.shift();
  }
}

/** The name of what a message is about. */
function named(message: object): string {
  const { kind, method, event, name, key, what, state } = message as Record<string, string | undefined>;
  return [kind ?? what, method ?? event ?? key ?? name ?? state].filter(Boolean).join(' ');
}

/** The members that are not its name. */
function rest(message: object): unknown {
  const { t: _, kind: _k, key: _key, method: _m, event: _e, name: _n, what: _w, ...content } = message as Record<string, unknown>;
  return content;
}
