/**
 * Tools that show what happens on a client's connection: a panel, session files, and a network as bad as one likes. For development:
 * loaded on demand, no part of the client.
 *
 * @packageDocumentation
 */
import { setClients, shown } from './development.js';
import { defineElement } from './devtools/panel.js';
import { saveSession as save, toolsOf } from './devtools/tools.js';
import type { Global } from './options.js';
import type { DatasoleClient } from './slim.js';

declare global {
  /** The clients of this page, from the first attempt to connect until they have ended; in development builds. */
  var __DATASOLE__: DatasoleClient<any>[] | undefined;
}

/** What a session file leaves out. */
export interface SessionOptions {
  /** Replace tokens, and the secrets of CRDT replicas. Default `true`. */
  tokens?: boolean;
  /**
   * Replace the values of calls, events, states, CRDTs, rooms and documents by others of the same shape and length. The names of
   * methods, events, keys and members stay, and so do the messages of errors. Default `false`.
   */
  payloads?: boolean;
}

/** A network as it is simulated. What is absent stays as it is. */
export interface Simulated {
  /** Lose the connection now. */
  drop?: boolean;
  /** No connection can be made, and the one that is open is lost. */
  offline?: boolean;
  /** How much longer a message and its answer take, in milliseconds. */
  latency?: number;
}

/**
 * The session of a client made with `record: true`: all that its core was told since it was started, and all that it did, as the text
 * of a file that `datasole replay` does again. `docs/sessions.md` has the format.
 *
 * Of a session that has grown beyond 8 MiB the beginning is gone; it can be read, but not be done again.
 *
 * @throws Error when the client records none, is disconnected, or its worker is replaced meanwhile.
 * @example
 * ```ts
 * const text = await saveSession(client, { payloads: true });
 * ```
 */
export function saveSession(client: DatasoleClient<any>, options?: SessionOptions): Promise<string> {
  return save(client, options);
}

/** Makes the network of a client worse, or good again: for the tabs that share its connection, too. Nothing is sent for it. */
export function simulate(client: DatasoleClient<any>, network: Simulated): void {
  toolsOf(client).simulate(network);
}

/**
 * Shows the panel `<datasole-devtools>` at the bottom of the page; the same one when called again. It shows the clients of
 * `globalThis.__DATASOLE__`, and those that are given.
 *
 * @example
 * ```ts
 * if (import.meta.env.DEV) void import('datasole/devtools').then(({ openDevtools }) => openDevtools());
 * ```
 */
export function openDevtools(...clients: DatasoleClient<any>[]): Global<'HTMLElement'> {
  setClients([...new Set([...shown(), ...clients])]);
  const panel = document.querySelector('datasole-devtools') ?? document.body.appendChild(document.createElement('datasole-devtools'));
  return panel as Global<'HTMLElement'>;
}

defineElement();
