/** Why there is no connection: found out, and as an error. */
import { Code } from './codes.js';
import { localError, type DatasoleError } from './errors.js';
import { resolve, type DatasoleClientOptions } from './options.js';
import type { StatusReason } from './status.js';

/** Set by `npm/build.mjs`: whether this is a script for pages without modules. */
declare const IIFE: boolean;

/** The reason in more words, from a script that is loaded only for that. */
export async function explain(options: DatasoleClientOptions, reason: StatusReason): Promise<StatusReason> {
  try {
    const { core, workerUrl } = resolve(options);
    const probe: typeof import('./probe.js') = IIFE
      ? await import(/* webpackIgnore: true */ /* @vite-ignore */ new URL('datasole-probe.mjs', workerUrl).href)
      : await import('./probe.js');
    return await probe.explain(core.url, reason, workerUrl);
  } catch {
    return reason;
  }
}

/** The error of `connect`, and of calls that waited for a connection. */
export function connectionError({ kind, message, code, httpStatus, hint }: StatusReason): DatasoleError {
  const [number, retryable] =
    kind === 'unauthorized'
      ? [Code.Unauthorized, false]
      : kind === 'connectTimeout'
        ? [Code.Timeout, true]
        : kind === 'protocol'
          ? [Code.InvalidRequest, false]
          : [Code.NotConnected, true];
  const details = [kind, code ?? httpStatus, message, hint].filter(Boolean).join(', ');
  return localError(number, `no connection: ${details}`, retryable);
}
