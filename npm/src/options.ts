/** The options of a client, and those of its core's host. */
import type { LinkOptions } from './link.js';
import { PROTOCOL_VERSION, WASM_FILE } from './protocol.js';

/** Set by `npm/build.mjs`: whether this is the script for pages without modules. */
declare const IIFE: boolean;

/** The type of a platform's class, for programs whose `lib` has it; `unknown` elsewhere. */
export type Global<Name extends string> = typeof globalThis extends Record<Name, { prototype: infer T }> ? T : unknown;

/** The options of {@link DatasoleClient}. All have defaults. */
export interface DatasoleClientOptions {
  /**
   * Base URL of the server: http, https, ws or wss, or relative to the page. Default: the origin of the page. Several are those of
   * nodes that are one server: the client begins with one at random and goes on to the next when one does not answer; worker and
   * WebAssembly are loaded from the first that has them. Each is tried once, also with `reconnect: false` and a low `maxReconnectAttempts`.
   */
  url?: string | readonly string[];
  /** Path of the endpoint. Default `/__ds`. */
  path?: string;
  /** How to authenticate. */
  auth?: {
    /** The token; see also {@link DatasoleClientOptions.getToken}. */
    token?: string | undefined;
    /**
     * How a token reaches the server. `url` (default) works with every server, but proxies may log it. `frame` sends it
     * after opening; the server must speak version 2.
     */
    via?: 'url' | 'frame';
    /** Headers of the upgrade request. Browsers cannot send any: used only in Node, by the sockets that accept them. */
    headers?: Record<string, string>;
  };
  /**
   * Asked for a token before every attempt to connect; wins over `auth.token`. When it throws, the attempt fails as
   * unauthorized.
   */
  getToken?: () => string | Promise<string>;
  /** Run socket and core in a dedicated worker. Default: `true` on a page, else (Node, Bun, Deno, in a worker) `false`. */
  useWorker?: boolean;
  /**
   * One connection for all tabs of an origin: those whose `url`, `path`, `auth`, reconnecting and `shared` are equal share a worker,
   * its connection and the states it has. With `getToken`, name the user, `shared: userId`: any of the tabs may be asked. The tabs
   * are one member of a room, with the value shown last; documents (`datasole/yjs`) have a connection of each tab's own. Where there
   * can be no shared worker (no secure context, a worker of another origin or of `worker`), each tab has its own. Default `false`.
   */
  shared?: boolean | string;
  /**
   * The worker script, relative to the page. Default: `datasole-worker.v3.js` under `path` on the server; the number is
   * the version of what page and worker speak. On
   * another origin it is loaded by `importScripts` from a blob, which the page's CSP must allow (`worker-src blob:`).
   */
  workerUrl?: string;
  /** Makes the worker, for bundlers: `() => new Worker(new URL('datasole/client/worker', import.meta.url), …)`. */
  worker?: () => Global<'Worker'>;
  /**
   * The WebAssembly. Default: `datasole.v3.wasm` beside the worker script; in Node the file in this package, and a path or
   * `file:` URL is taken too. Not used by a worker script that has it inside (`*.inline.*`).
   */
  wasmUrl?: string;
  /**
   * Asked for other ones where the server's worker cannot be used, because it has none of this version:
   * `async () => (await import('datasole/inline')).inlineWorker()`. Modules only; scripts are the server's own.
   */
  fallback?: () => Promise<Pick<DatasoleClientOptions, 'worker' | 'wasmUrl'>>;
  /** Accepted for compatibility; batched messages give its gain without cross-origin isolation. */
  useSharedArrayBuffer?: boolean;
  /** Try again after an attempt has failed or a connection was lost. Default `true`. */
  reconnect?: boolean;
  /**
   * The base of the backoff: attempt n (from 0) waits a random time up to `reconnectInterval * 2^n`. Default 1000 ms.
   */
  reconnectInterval?: number;
  /** Give up after so many failed attempts in a row. Default: never. */
  maxReconnectAttempts?: number;
  /**
   * The contract that the page was built with: `contract` of its `contract.ts`. A server with another one is told
   * by {@link Status.contract} and once on the console: the page was left open across a deployment, or was not built anew.
   */
  contract?: { hash: string };
  /**
   * Keep what the core is told, at most 8 MiB of it, so that `saveSession` of `datasole/devtools` can write it to a file with which
   * `datasole replay` does all of it again. Documents of tabs that share a connection are no part of it. Default `false`.
   */
  record?: boolean;
  /** Keeps pending CRDT operations, so that they survive a reload. */
  crdtStorage?: CrdtStorage;
  /**
   * The time within which `connect` has a connection or rejects, and the longest time of each attempt. By default an attempt
   * takes at most 10,000 ms, and `connect` waits as long as attempts are made.
   */
  connectTimeout?: number;
}

/**
 * Keeps pending operations, so that they survive a reload: `sessionStorage`, say. Not shared by
 * tabs: each would overwrite the operations of the others.
 */
export interface CrdtStorage {
  /** The operations saved for a key. */
  load(key: string): string | null | undefined | Promise<string | null | undefined>;
  /** Saves the operations of a key; `undefined` removes them. */
  save(key: string, text: string | undefined): void;
}

/** Options of a call. */
export interface RpcOptions {
  /** Its deadline in milliseconds. Default 30,000. */
  timeout?: number;
  /** Cancels the call; the promise rejects with {@link ErrorCode.Cancelled} and the signal's reason as `cause`. */
  signal?: Global<'AbortSignal'>;
  /** Wait for a connection instead of being refused without one; the deadline runs meanwhile. Default `false`. */
  queue?: boolean;
}

/** Options of an event. */
export interface EmitOptions {
  /** Wait for a connection instead of being dropped without one. Default `false`. */
  queue?: boolean;
}

/** A subscription of a live state. */
export interface Subscription<V = any> {
  /** Ends it. */
  unsubscribe(): void;
  /**
   * The value as soon as it is known, `undefined` if there is none (a server of version 1 does not say so: there it waits for a value);
   * asked for after {@link unsubscribe}, it follows the key once more
   * until then. Rejects with a {@link DatasoleError} when the server refuses the key (which is then reported no more), and when the
   * connection has ended for good before.
   */
  readonly ready: Promise<V | undefined>;
}

/** The path of the endpoint where none is given. */
export const DEFAULT_WS_PATH = '/__ds';

/** How long an attempt may take. @internal */
export const CONNECT_TIMEOUT = 10_000;

/** Resolves the options against the page; of several servers, one has worker and wasm. Throws a TypeError if a URL is invalid. @internal */
export function resolve(options: DatasoleClientOptions, attempt = 0): LinkOptions {
  const page = globalThis.location?.href;
  const { reconnect, reconnectInterval, maxReconnectAttempts, connectTimeout = CONNECT_TIMEOUT } = options;
  const { token, via: tokenVia, headers } = options.auth ?? {};
  const bases = [options.url ?? (page && location.origin) ?? []].flat();
  if (!bases.length) throw new TypeError('outside of a page the client needs a url');
  const endpoints = bases.map((base) => {
    const { protocol, host, pathname } = absolute(base, page, /^(http|ws)s?:$/);
    const path = (options.path ?? DEFAULT_WS_PATH).replace(/^\/+|\/+$/g, '');
    return new URL(`${protocol.replace('http', 'ws')}//${host}${pathname.replace(/\/+$/, '')}/${path}`).href;
  });
  const served = `${endpoints[attempt % endpoints.length]!.replace('ws', 'http')}/datasole-worker.v${PROTOCOL_VERSION}.js`;
  const workerUrl = absolute(options.workerUrl ?? served, page ?? served).href;
  const wasmUrl = page ? absolute(options.wasmUrl ?? WASM_FILE, options.wasmUrl ? page : workerUrl).href : (options.wasmUrl ?? '');
  return {
    ...options,
    core: {
      url: endpoints.join(' '),
      token,
      tokenVia,
      askToken: !!options.getToken,
      reconnect,
      reconnectInterval,
      maxReconnectAttempts,
      connectTimeout,
      contract: options.contract?.hash,
      record: options.record,
    },
    useWorker: options.useWorker ?? !!(options.worker || (globalThis.Worker && globalThis.document)),
    workerUrl,
    wasmUrl,
    headers: IIFE || page ? undefined : (headers ?? {}),
  };
}

/** Names a URL that is none, as not every browser does. */
function absolute(url: string, base: string | undefined, scheme = /./): URL {
  try {
    const found = new URL(url, base);
    if (scheme.test(found.protocol)) return found;
  } catch {
    // As below.
  }
  throw new TypeError(`not an http(s) or ws(s) URL: ${url}`);
}
