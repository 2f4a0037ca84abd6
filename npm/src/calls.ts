/** The calls of a client that are under way. */
import { copyBytes } from './bytes.js';
import { Code } from './codes.js';
import { DatasoleError, localError } from './errors.js';
import { delay } from './lifecycle.js';
import type { RpcOptions } from './options.js';
import type { Encoded, FromWorker, ToWorker } from './protocol.js';

/** Ends a call, with an error if there is one. */
type Settle = (error: DatasoleError | undefined, value?: unknown) => void;

/** The client, as its calls see it. */
export interface CallHost {
  /** A new id. Throws where nothing can be sent. */
  admit(queue: boolean): number;
  /** True once there is a core, which keeps the time of calls. */
  timed(): boolean | undefined;
  send(message: ToWorker): void;
}

/** See the module. Each call settles once: by an answer, its deadline, its signal, or the end of the client. */
export class Calls {
  /** By id. */
  readonly open = new Map<number, Settle>();
  readonly #host: CallHost;

  constructor(host: CallHost) {
    this.#host = host;
  }

  start(method: string, params: unknown, { timeout, signal, queue = false }: RpcOptions): Promise<any> {
    return new Promise((resolve, reject) => {
      const host = this.#host;
      const cancelled = () => localError(Code.Cancelled, `${method} was cancelled`, false, signal?.reason);
      if (signal?.aborted) throw cancelled();
      const encoded = encode(params);
      const id = host.admit(queue);
      const giveUp = (error: DatasoleError) => {
        host.send({ t: 'cancel', id });
        settle(error);
      };
      const abort = () => giveUp(cancelled());
      let timer: ReturnType<typeof setTimeout> | undefined;
      signal?.addEventListener('abort', abort);
      const settle: Settle = (error, value) => {
        this.open.delete(id);
        signal?.removeEventListener('abort', abort);
        clearTimeout(timer);
        if (error) reject(error);
        else resolve(value);
      };
      if (!host.timed()) {
        const millis = timeout ?? 30_000;
        const late = () => giveUp(localError(Code.Timeout, `RPC timeout: ${method} (${millis}ms)`, true));
        timer = setTimeout(late, delay(millis));
      }
      this.open.set(id, settle);
      host.send({ t: 'call', id, method, timeout, queue, ...encoded });
    });
  }

  done({ id, error, bin, value }: FromWorker & { t: 'done' }, binaries: Uint8Array[]): void {
    this.open.get(id)?.(error && new DatasoleError(error), binaries[bin!] ?? value);
  }

  /** Ends all of them. */
  reject(error: DatasoleError): void {
    for (const settle of this.open.values()) settle(error);
  }
}

/** A value as it is sent: bytes, else JSON. Throws where it is neither. */
export function encode(value: unknown): Encoded {
  const bytes = copyBytes(value);
  return bytes ? { bytes } : { json: JSON.stringify(value) };
}
