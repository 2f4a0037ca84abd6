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

/** A reason in a line. */
export function words({ kind, message, code, httpStatus, hint }: StatusReason): string {
  return [kind, code ?? httpStatus, message, hint].filter(Boolean).join(', ');
}

/** The error of `connect`, and of calls that waited for a connection. */
export function connectionError(reason: StatusReason): DatasoleError {
  const final = { unauthorized: Code.Unauthorized, protocol: Code.InvalidRequest }[reason.kind as 'protocol'];
  const passing = reason.kind === 'connectTimeout' ? Code.Timeout : Code.NotConnected;
  return localError(final ?? passing, `no connection: ${words(reason)}`, !final);
}
