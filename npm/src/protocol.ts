/**
 * What main thread and core host say to each other, over `postMessage` or by direct calls.
 *
 * Order: `here` → `init` → `ready`, then anything. Both sides post arrays; order is meaning. Towards main an array is
 * one JSON text ({@link Batch}): wasm writes it around payloads that are JSON already, so one `JSON.parse` reads all.
 * Main allocates the ids of calls and subscriptions (u32); every call gets exactly one `done`.
 */
import type { CoreOptions } from '../generated/datasole_wasm.js';
import type { ChannelKind } from './channel.js';
import type { ErrorBody } from './errors.js';
import type { Status } from './status.js';

/** Both sides must have the same. */
export const PROTOCOL_VERSION = 1;

/** JSON text, or raw bytes, or neither. */
export interface Encoded {
  json?: string;
  bytes?: Uint8Array;
}

/** From main. */
export type ToWorker =
  /** First message, answers `here`. `wasm` is the module's bytes where main has them, else it is loaded from `wasmUrl`. */
  | { t: 'init'; v: number; options: CoreOptions; wasmUrl: string; wasm?: ArrayBuffer }
  | { t: 'connect' }
  /** For good; nothing may follow. */
  | { t: 'close' }
  | ({ t: 'call'; id: number; method: string; timeout?: number; queue: boolean } & Encoded)
  | { t: 'cancel'; id: number }
  | ({ t: 'emit'; event: string; queue: boolean } & Encoded)
  | { t: 'subscribe'; id: number; kind: StreamKind; key: string }
  | { t: 'unsubscribe'; id: number }
  /** Main's mirror of a state has lost step. */
  | { t: 'resync'; key: string }
  /** An operation, a presence value or a document's message; answered by `done` unless the id is 0. */
  | ({ t: 'submit'; id: number; kind: StreamKind; key: string } & Encoded)
  | { t: 'hint'; kind: Hint }
  /** Answers `token`. */
  | { t: 'token'; token?: string; error?: string };

/** What the entries of a stream are. */
export type StreamKind = 'state' | 'event' | ChannelKind;

/** What the page noticed. */
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
  /** A subscription (`what`: its kind) or an event (`emit`) was refused. */
  | { t: 'refused'; what: string; name: string; error: ErrorBody }
  /** A state's whole value; absent when the key does not exist. `rev` counts the stream's entries. */
  | { t: 'snapshot'; key: string; rev: number; value?: unknown }
  /** RFC 6902 operations that lead from `rev - 1` to `rev`. */
  | { t: 'patch'; key: string; rev: number; ops: unknown[] }
  /** A CRDT's operation, a room's members or a document's message; `whole` replaces everything before it. */
  | { t: 'entry'; kind: string; key: string; rev: number; data?: unknown; bin?: number; whole?: true }
  /** A token is needed. */
  | { t: 'token' }
  /** The host is unusable and must be replaced. */
  | { t: 'fatal'; message: string };

/** Messages to main in one piece: their JSON array as text or UTF-8, and after it the bytes they refer to. */
export type Batch = BatchText | [BatchText, ...Uint8Array[]];
type BatchText = string | Uint8Array;
