/**
 * The messages between main thread and core host, over `postMessage` or by direct calls.
 *
 * Order: `here` → `init` → `ready`, then anything. Both sides post arrays; order is meaning. Towards main an array is
 * one JSON text ({@link Batch}): wasm writes it around payloads that are JSON already, so one `JSON.parse` reads all.
 * Main allocates the ids of calls and subscriptions (u32); every call gets exactly one `done`. Streams that are open
 * are named by kind and key; main numbers the edits of each, and every edit of a CRDT gets exactly one `settled`.
 */
import type { CoreOptions } from '../generated/datasole_wasm.js';
import type { ErrorBody } from './errors.js';
import type { Status } from './status.js';

/** The version of these messages; both sides must have the same. */
export const PROTOCOL_VERSION = 3;

/** The wasm that belongs to the worker script of this version. */
export const WASM_FILE = `datasole.v${PROTOCOL_VERSION}.wasm`;

/** The part of that script that only shared workers load. A function, so that pages, which do not ask, do not carry it. */
export const hubFile = () => `datasole-hub.v${PROTOCOL_VERSION}.mjs`;

/** JSON text, or raw bytes, or neither. */
export interface Encoded {
  json?: string;
  bytes?: Uint8Array;
}

/** From main. */
export type ToWorker =
  /**
   * First message, answers `here`. `wasm` is the module's bytes where main has them, else it is loaded from `wasmUrl`.
   */
  | { t: 'init'; v: number; options: HostOptions; wasmUrl: string; wasm?: ArrayBuffer }
  | { t: 'connect' }
  /** For good; nothing may follow. */
  | { t: 'close' }
  | ({ t: 'call'; id: number; method: string; timeout?: number; queue: boolean } & Encoded)
  | { t: 'cancel'; id: number }
  | ({ t: 'emit'; event: string; queue: boolean } & Encoded)
  /** `since`: main has the value of that position; entries after it follow, or a snapshot. */
  | { t: 'subscribe'; id: number; kind: FollowedKind; key: string; since?: Since }
  /** The core goes on for `linger` milliseconds, in case there is another follower; then it tells `left`. */
  | { t: 'unsubscribe'; id: number; linger: number }
  /** Main's mirror of a state has lost step; `applied`: a patch was applied since the last time. */
  | { t: 'resync'; key: string; applied: boolean }
  | (StreamName & StreamCommand)
  | (ToolsName & ToolsCommand)
  | { t: 'hint'; kind: Hint }
  /** Answers `token`. */
  | { t: 'token'; token?: string; error?: string };

/** The options of a core, and of the host that runs it. */
export interface HostOptions extends CoreOptions {
  /** Keep what the core is told, for {@link ToolsCommand} `save`. */
  record?: boolean;
}

/** What the world tells the core, and the taking of a batch. With the messages of main that is all on which a core depends. */
export type WorldInput =
  | { t: 'opened'; socket: number; protocol: string }
  | { t: 'message'; socket: number; bytes: Uint8Array }
  /** `code` below 1,000 is an HTTP status. */
  | { t: 'closed'; socket: number; code: number; reason: string; ours: boolean; retryAfter?: number }
  | { t: 'timeout' }
  | { t: 'take' };

/** Everything that a core is told. */
export type CoreInput = Exclude<ToWorker, { t: 'init' } | ToolsName> | WorldInput;

/** The tools of the host itself, for `datasole/devtools`: named and answered as an open stream is. */
export interface ToolsName {
  kind: 'host';
  key: 'tools';
}

/** Commands to the tools. Each `id` gets one `entry` with {@link ToolsAnswer}; `open` and `simulate` get one with the network. */
export type ToolsCommand =
  | { t: 'open'; throttle?: number }
  /** Nobody has them open any more: the network is as it is. */
  | { t: 'leave' }
  /** The session so far. */
  | { t: 'save'; id: string }
  /** Does a session again, and tells what comes of it. */
  | { t: 'replay'; id: string; text: string }
  /** The network as the sockets see it from here on; `drop` loses those that are open. `latency` is that of a round trip, ms. */
  | { t: 'simulate'; drop?: boolean; offline?: boolean; latency?: number };

/** The answer of the tools: the network as it is simulated, or a session (docs/sessions.md); without text, nothing is recorded. */
export interface ToolsAnswer {
  id?: string;
  text?: string;
  error?: string;
  network?: { offline: boolean; latency: number };
}

/** A position of a stream on the server: its life, and the number of its entries. */
export interface Since {
  epoch: number;
  seq: number;
}

/** Streams that are followed. */
export type FollowedKind = 'state' | 'event';

/** The name of an open stream: the core keeps each edit of it until the edit is settled. */
export interface StreamName {
  kind: 'crdt' | 'presence' | 'doc';
  key: string;
}

/** Commands to an open stream. */
export type StreamCommand =
  /** Opens it; presence and awareness leave at most every `throttle` milliseconds. */
  | { t: 'open'; throttle?: number }
  /** Leaves it; edits are still sent. */
  | { t: 'leave' }
  /**
   * A CRDT's operation or a document's update; `id` is greater than that of the stream's last edit. An empty update (two zero bytes)
   * stands for edits that an earlier core was handed, and may have been refused.
   */
  | ({ t: 'edit'; id: number } & Encoded)
  /** Sets the value in a room; leaves the room without JSON. */
  | { t: 'show'; json?: string }
  /** Sets the awareness of a document's own clients; removes it without bytes. */
  | { t: 'aware'; bytes?: Uint8Array }
  /** Answers the oldest `ask` of a document, but those for awareness. */
  | { t: 'answer'; bytes: Uint8Array }
  /** The last `entry` could not be applied; `applied`: one could since the last time this was said. */
  | { t: 'unfit'; applied: boolean };

/** Hints of the page. */
export type Hint = 'online' | 'offline' | 'visible' | 'hidden';

/** To main, as read from a batch. `bin` is an index into the batch's byte arrays. */
export type FromWorker =
  /** The script runs. */
  | { t: 'here'; v: number }
  /** The wasm runs. */
  | { t: 'ready'; build: string }
  | ({ t: 'status' } & Status)
  | { t: 'done'; id: number; value?: unknown; bin?: number; error?: ErrorBody }
  | { t: 'event'; event: string; data?: unknown; bin?: number; timestamp: number }
  /** A subscription was answered; without `recovered`, entries were or may have been missed. */
  | { t: 'subscribed'; kind: string; key: string; recovered: boolean }
  /** Nothing more comes of a state or topic that nobody follows. */
  | { t: 'left'; kind: string; key: string }
  /** A subscription (`what`: its kind) or an event (`emit`) was refused. */
  | { t: 'refused'; what: string; name: string; error: ErrorBody }
  /**
   * A state's whole value; absent when the key does not exist. `rev` counts the stream's entries. `old`, of a shared worker: the one
   * before the present connection.
   */
  | { t: 'snapshot'; key: string; rev: number; value?: unknown; old?: boolean }
  /** RFC 6902 operations that lead from `rev - 1` to `rev`. */
  | { t: 'patch'; key: string; rev: number; ops: unknown[] }
  | StreamMessage
  /** A token is needed. */
  | { t: 'token' }
  /** The host is unusable and must be replaced. */
  | { t: 'fatal'; message: string };

/** About a stream that is open; without a `kind`, a document. */
export type StreamMessage =
  /** A CRDT's operation, a room's members or a document's update; `whole` replaces everything before it. */
  | { t: 'entry'; kind: string; key: string; rev: number; data?: unknown; bin?: number; whole?: true }
  /** The outcome of an edit: refused for good, or stored. `returns`: the edit also comes, or has come, as an entry. */
  | { t: 'settled'; kind: string; key: string; id: number; returns?: boolean; error?: ErrorBody }
  /** The progress of a stream. `pending` edits are not settled; of a document every edit up to `stored` is stored. */
  | { t: 'progress'; kind: string; key: string; phase: SyncPhase; pending: number; stored: number; error?: ErrorBody }
  /** The server refused something of this client for good: an operation, a presence value (`data`) or an update. */
  | { t: 'rejected'; kind: string; key: string; error: ErrorBody; data?: unknown }
  /** The core needs a part of the document; `bins` are indices as `bin` is. */
  | { t: 'ask'; key: string; what: Question; bins?: number[] }
  /** The awareness of others. */
  | { t: 'awareness'; key: string; bin: number };

/** The phase of an open stream; `unreadable`: the server refuses reading, but not writing. */
export type SyncPhase = 'loading' | 'synced' | 'unreadable' | 'refused';

/**
 * Questions about a document: its state vector, the changes that a peer with such a vector lacks (`smallest`: without deleted
 * content that an undo manager keeps), updates merged into one, its own awareness.
 */
export type Question = 'stateVector' | 'difference' | 'smallest' | 'merge' | 'awareness';

/** Messages to main in one piece: their JSON array as text, which {@link unpack} reads, and after it the bytes they refer to. */
export type Batch = string | [string, ...Uint8Array[]];

/**
 * Events of a topic, or patches of a state, that come one after the other in a batch: main reads their names once. `list` has the data and
 * the timestamp of each event, or the operations and the `rev` of each patch.
 */
type Listed = { list?: any[] } & ({ t: 'event'; event: string; key?: undefined } | { t: 'patch'; event?: undefined; key: string });

/** The messages of a batch's text. */
export function unpack(text: string): FromWorker[] {
  const messages: FromWorker[] = [];
  for (const message of JSON.parse(text)) {
    const { t, event, key, list }: Listed = message;
    if (!list) messages.push(message);
    else for (let at = 0; at < list.length; )
      messages.push(t === 'event' ? { t, event, data: list[at++], timestamp: list[at++] } : { t, key, ops: list[at++], rev: list[at++] });
  }
  return messages;
}
