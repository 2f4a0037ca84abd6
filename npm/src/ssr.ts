/**
 * For servers that render pages: {@link fetchState}.
 *
 * @packageDocumentation
 */
import { DatasoleError, ErrorCode } from './client.js';
import { Code } from './codes.js';
import type { ContractShape, Registered, StateKeyName, StateValue } from './contract.js';
import type { Initial } from './live.js';
import type { Global } from './options.js';

export type { Initial };

/** Options of {@link fetchState}. */
export interface FetchStateOptions {
  /** The token of the user for whom the page is rendered. */
  token?: string | undefined;
  /** Headers to be sent, such as the user's cookies. */
  headers?: Record<string, string>;
  /** Path of the endpoint. Default `/__ds`. */
  path?: string;
  /** Ends the request. Default: one that ends it after 10 s. */
  signal?: Global<'AbortSignal'>;
}

/**
 * A live state with its position: hand it to the page, and there to `useLiveState` as `initial`. The page shows the value at once, and is sent what
 * has changed since, each change once. `undefined`: there is no such state. Of several URLs, those of nodes that are one server, one is asked
 * at random, and the next when it does not answer or is going away.
 *
 * @throws DatasoleError when the server refuses it, cannot be reached, or does not answer in time; `retryable` where a retry may succeed.
 * @example
 * ```tsx
 * const board = await fetchState('http://localhost:4000', 'board', { token });
 * return <Board initial={board} />; // useLiveState('board', undefined, { initial })
 * ```
 */
export async function fetchState<C extends ContractShape = Registered, K extends StateKeyName<C> = StateKeyName<C>>(
  url: string | readonly string[],
  key: K,
  { signal = AbortSignal.timeout(10_000) as Global<'AbortSignal'>, ...options }: FetchStateOptions = {},
): Promise<Initial<StateValue<C, K>> | undefined> {
  const urls = [url].flat();
  if (!urls.length) throw new TypeError('fetchState needs a url');
  const first = Math.floor(Math.random() * urls.length);
  for (let tried = 1; ; tried++) {
    try {
      return await ask(urls[(first + tried) % urls.length]!, key, { ...options, signal });
    } catch (error) {
      const passing = error instanceof DatasoleError && error.retryable && error.code !== ErrorCode.Timeout;
      if (!passing || tried >= urls.length) throw error;
    }
  }
}

async function ask(
  url: string,
  key: string,
  { token, headers, path = '/__ds', signal }: FetchStateOptions,
): Promise<Initial<any> | undefined> {
  const target = `${url.replace(/^ws/, 'http').replace(/\/+$/, '')}/${path.replace(/^\/+|\/+$/g, '')}/state/${encodeURIComponent(key)}`;
  const failed = (code: number, message: string, rest: { status?: number; retryAfter?: number; cause?: unknown } = {}) => {
    const retryable = PASSING.has(code) || PASSING.has(rest.status!);
    return new DatasoleError({ code, message: `state ${key}: ${message}`, retryable, retryAfter: rest.retryAfter }, rest.cause);
  };
  const authorization = token === undefined ? {} : { authorization: `Bearer ${token}` };
  const request = { headers: { ...headers, ...authorization }, signal, cache: 'no-store' } as RequestInit;
  const answer = async () => {
    const response = await fetch(target, request);
    return { response, text: await response.text() };
  };
  const { response, text } = await answer().catch((cause: unknown) => {
    const { aborted, reason } = signal as AbortSignal;
    if (aborted && reason?.name === 'TimeoutError') throw failed(Code.Timeout, `no answer from ${target} in time`);
    if (aborted) throw failed(Code.Cancelled, 'cancelled');
    throw failed(Code.NotConnected, `no answer from ${target}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  });
  // The answer of anything else has another shape.
  const body = parsed(text);
  if (response.ok && body?.seq !== undefined) return body;
  // A datasole server's refusal has a body of its own.
  const { code = ErrorCode.Handler, message = `HTTP ${response.status} from ${target}, and no state`, retryAfter } = body?.error ?? {};
  if (response.status === 404 && code === ErrorCode.NotFound) return undefined;
  throw failed(code, message, { status: response.status, retryAfter });
}

/** Codes and HTTP statuses of failures that pass. */
const PASSING = new Set<number>([Code.NotConnected, Code.Timeout, ErrorCode.Limit, ErrorCode.ShuttingDown, 429, 502, 503, 504]);

/** The value of JSON; `undefined` for another text. */
function parsed(text: string): any {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
