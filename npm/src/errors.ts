/**
 * The numbers in {@link DatasoleError.code}: JSON-RPC's, the server's (-32000 and below) and local ones (-32100 and
 * below). Applications may answer with numbers of their own.
 */
export const ErrorCode = {
  /** A frame or a command that has no meaning here, such as bytes for a server that speaks version 1. */
  InvalidRequest: -32600,
  /** No such RPC method. */
  MethodNotFound: -32601,
  /** The parameters do not fit the method. */
  InvalidParams: -32602,
  /** The handler failed unexpectedly. */
  Internal: -32603,
  /** The handler returned an error. */
  Handler: -32000,
  /** No valid credentials. */
  Unauthorized: -32001,
  /** Valid credentials, but not for this. */
  Forbidden: -32002,
  /** No such stream. */
  NotFound: -32003,
  /** A limit of the server was reached; see {@link DatasoleError.retryAfter}. */
  Limit: -32004,
  /** Larger than the frame limit. */
  TooLarge: -32005,
  /** The server is going away. */
  ShuttingDown: -32006,
  /** No answer, or no connection, in time. */
  Timeout: -32100,
  /** The connection was lost before the answer: the call may or may not have been carried out. */
  ConnectionLost: -32101,
  /** Cancelled through an `AbortSignal`. */
  Cancelled: -32102,
  /** There is no connection, and nothing was queued. */
  NotConnected: -32103,
  /** The client was closed. */
  Closed: -32104,
  /** A limit of this client was reached. */
  LocalLimit: -32105,
  /** The worker or its WebAssembly failed or could not be loaded. */
  Host: -32106,
} as const;

/** An error in the form it travels in. */
export interface ErrorBody {
  code: number;
  message: string;
  retryable: boolean;
  data?: unknown;
  retryAfter?: number;
}

/**
 * The error of every failed operation.
 *
 * @example
 * ```ts
 * try {
 *   await client.rpc('transfer', { to: 'ann', amount: 5 });
 * } catch (error) {
 *   if (error instanceof DatasoleError && error.retryable) retryLater(error.retryAfter);
 *   else throw error;
 * }
 * ```
 */
export class DatasoleError extends Error {
  override readonly name = 'DatasoleError';
  /** See {@link ErrorCode}; applications may use numbers of their own. */
  declare readonly code: number;
  /** The data that the server attached. */
  declare readonly data?: unknown;
  /**
   * True if a retry may succeed. A lost or late answer says nothing about whether the call was carried
   * out: retry idempotent calls only.
   */
  declare readonly retryable: boolean;
  /** Try again after this many milliseconds, where the server said so. */
  declare readonly retryAfter?: number;

  /** @internal */
  constructor(body: ErrorBody, cause?: unknown) {
    super(body.message, cause === undefined ? undefined : { cause });
    Object.assign(this, body);
  }
}

/** An error of the server about something. @internal */
export function errorOf(what: string, error: ErrorBody): DatasoleError {
  return new DatasoleError({ ...error, message: `${what}: ${error.message}` });
}

/** An error of this side. @internal */
export function localError(code: number, message: string, retryable = false, cause?: unknown): DatasoleError {
  return new DatasoleError({ code, message, retryable }, cause);
}

/** Reports an error that no caller can catch like an uncaught error. @internal */
export function report(error: unknown): void {
  (globalThis.reportError ?? console.error)(error);
}
