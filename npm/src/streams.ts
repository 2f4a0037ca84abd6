/** The open streams of a client: CRDTs, rooms and documents. This side holds their values; the core sends and receives. */
import { errorOf, report, type ErrorBody } from './errors.js';
import type { StreamCommand, StreamMessage, StreamName, ToWorker } from './protocol.js';

/** The keeper of an open stream's value. `false`, or an error: an entry does not fit. A question is answered with bytes. */
export type Stream = {
  [T in StreamMessage['t']]?: (message: StreamMessage & { t: T }, bytes: Uint8Array[]) => boolean | Uint8Array | void;
} & {
  /** A new core has opened the stream: hands over all unsettled edits. */
  renew(): void;
  /** The number of edits that are not settled, where there are edits. */
  readonly pending?: number;
  /** The stream, or something sent to it, was refused for good. Default: reported. */
  failed?(error: unknown): void;
};

/** Sends to the core; dropped without a core. `follow` opens the stream, or leaves it; `close` ends its messages, too. */
export type Port = { send(command: StreamCommand): void; follow(follows: boolean): void; close(): void };

/** A message, with the members that some have. */
type Any = StreamMessage & { kind?: string; error?: ErrorBody; phase?: string; what?: string; bin?: number; bins?: number[] };

/** The open streams of a client. */
export class Streams {
  /** By kind and key. */
  readonly all = new Map<string, { stream: Stream; port: Port; renew(): void; applied?: boolean; refused?: number }>();

  constructor(private readonly post: (message: ToWorker) => void) {}

  open(name: StreamName, stream: Stream, throttle?: number): Port {
    const id = `${name.kind} ${name.key}`;
    let followed = false;
    const send = (command: StreamCommand) => this.post({ ...name, ...command });
    const follow = (follows: boolean) => {
      if (followed !== follows) send((followed = follows) ? { t: 'open', throttle } : { t: 'leave' });
    };
    const port = { send, follow, close: () => (follow(false), this.all.delete(id)) };
    const renew = () => {
      send({ t: 'open', throttle });
      stream.renew();
      if (!followed) send({ t: 'leave' });
    };
    this.all.set(id, { stream, port, renew });
    follow(true);
    return port;
  }

  /** A new core takes over. */
  renew(): void {
    for (const { renew } of this.all.values()) renew();
  }

  receive(message: StreamMessage, binaries: Uint8Array[]): void {
    const { t, kind = 'doc', key, error, phase, what, bin, bins = [bin ?? []].flat() } = message as Any;
    const name = `${kind} ${key}`;
    const open = this.all.get(name);
    if (!open) return;
    const { stream, port, applied = false, refused } = open;
    const failed = (error: unknown) => (stream.failed ? stream.failed(error) : report(error));
    // A refusal is told once, by either message, until the stream is synchronised.
    if (error && t !== 'settled' && !(phase && error.code === refused)) failed(errorOf(name, error));
    if (error || phase === 'synced') open.refused = error?.code;
    let result: any = false;
    try {
      result = (stream as any)[t]?.(message, bins.map((bin) => binaries[bin]!));
    } catch (error) {
      failed(error);
    }
    if (t === 'entry') open.applied = result !== false;
    if (t === 'entry' && !open.applied) port.send({ t: 'unfit', applied });
    // The core waits, also for what could not be made.
    if (t === 'ask' && what !== 'awareness') port.send({ t: 'answer', bytes: result || new Uint8Array() });
  }
}
