/**
 * The open streams of a client: CRDTs, rooms and documents. This side holds their values; the core sends and receives.
 */
import { errorOf, report } from './errors.js';
import type { StreamCommand, StreamMessage, StreamName, ToWorker } from './protocol.js';

/** The keeper of an open stream's value. `false`, or an error: an entry does not fit. */
export type Stream = {
  [T in StreamMessage['t']]?: (message: StreamMessage & { t: T }, bytes: Uint8Array[]) => boolean | void;
} & {
  /** A new core has opened the stream: hands over all unsettled edits. */
  renew(): void;
  /** The number of edits that are not settled, where there are edits. */
  readonly pending?: number;
  /** The stream, or something sent to it, was refused for good. Default: reported. */
  failed?(error: unknown): void;
};

/** Sends to the core; dropped without a core. `close` ends the messages of the stream. */
export type Port = { send(command: StreamCommand): void; close(): void };

/** The open streams of a client. */
export class Streams {
  /** By kind and key. */
  readonly all = new Map<string, { stream: Stream; throttle?: number | undefined; port: Port; applied?: boolean; refused?: number }>();
  readonly #send: (message: ToWorker) => void;

  constructor(send: (message: ToWorker) => void) {
    this.#send = send;
  }

  open(name: StreamName, stream: Stream, throttle?: number): Port {
    const id = `${name.kind} ${name.key}`;
    const send = (command: StreamCommand) => this.#send({ ...name, ...command });
    const port = { send, close: () => this.all.delete(id) };
    this.all.set(id, { stream, throttle, port });
    send({ t: 'open', throttle });
    return port;
  }

  /** A new core takes over. */
  renew(): void {
    for (const { port, throttle, stream } of this.all.values()) {
      port.send({ t: 'open', throttle });
      stream.renew();
    }
  }

  receive(message: StreamMessage, binaries: Uint8Array[]): void {
    const name = `${'kind' in message ? message.kind : 'doc'} ${message.key}`;
    const open = this.all.get(name);
    if (!open) return;
    const { stream, port, applied = false, refused } = open;
    const failed = (error: unknown) => (stream.failed ? stream.failed(error) : report(error));
    const error = 'error' in message && message.t !== 'settled' ? message.error : undefined;
    // A refusal is told once, by either message, until the stream is synchronised.
    const known = message.t === 'progress' && error?.code === refused;
    if (error || ('phase' in message && message.phase === 'synced')) open.refused = error?.code;
    if (error && !known) failed(errorOf(name, error));
    const bins = 'bins' in message ? message.bins : 'bin' in message ? [message.bin!] : [];
    let fits: boolean | void = false;
    try {
      fits = (stream[message.t] as Stream['entry'])?.call(stream, message as any, bins!.map((bin) => binaries[bin]!));
    } catch (error) {
      failed(error);
    }
    if (message.t === 'entry') open.applied = fits !== false;
    if (fits !== false) return;
    if (message.t === 'entry') port.send({ t: 'unfit', applied });
    // The core waits; the server will not understand this either.
    if (message.t === 'ask') port.send({ t: 'answer', bytes: new Uint8Array() });
  }
}
