/** Why the first attempt may have failed, by asking the server over HTTP. Loaded only then. */
import type { StatusReason } from './status.js';

const PATIENCE_MS = 5_000;

/**
 * The reason with a message, a status and a hint, as far as one question to each of the `endpoints` (ws or wss, separated by spaces) tells
 * until something is found, and a second one to its worker script (of the first: `workerUrl`) where that did not run.
 */
export async function explain(endpoints: string, reason: StatusReason, workerUrl: string): Promise<StatusReason> {
  const { kind, code, httpStatus } = reason;
  if (httpStatus) return { ...reason, hint: hint(httpStatus) };
  if (kind !== 'host' && !(kind === 'closed' && code === 1006)) return reason;
  const [first, ...others] = endpoints.split(' ') as [string, ...string[]];
  let told: StatusReason | undefined;
  for (const endpoint of [first, ...others]) {
    // That of the first is known; a script of the application's own is the same for all.
    const { found, sound } = await look(endpoint, reason, workerUrl.replace(first.replace(/^ws/, 'http'), endpoint.replace(/^ws/, 'http')));
    if (!sound) return found;
    told ??= found;
  }
  return told!;
}

/** What one server says; `sound`: nothing is wrong there but for the WebSocket. */
async function look(endpoint: string, reason: StatusReason, workerUrl: string): Promise<{ found: StatusReason; sound?: boolean }> {
  const url = endpoint.replace(/^ws/, 'http').replace(/\/+$/, '');
  const why = (message: string, more: Partial<StatusReason> = {}, sound = false) => ({ found: { ...reason, message, ...more }, sound });
  const ask = (url: string, mode: RequestMode = 'cors') =>
    fetch(url, { mode, cache: 'no-store', signal: AbortSignal.timeout(PATIENCE_MS) });
  let answer: Response;
  try {
    answer = await ask(`${url}/health`);
  } catch {
    const answers = await ask(`${url}/health`, 'no-cors').then(
      () => true,
      () => false,
    );
    return answers
      ? why(`${url} answers, but refuses the WebSocket`, { hint: 'is the origin of this page allowed there (--allow-origin)?' })
      : why(`${url} cannot be reached`, { hint: 'is the server running, and does the policy of the page (connect-src) allow it?' });
  }
  const { status } = answer;
  const body: unknown = await answer.json().catch(() => undefined);
  const ours = typeof body === 'object' && body !== null && ('live' in body || 'status' in body);
  if (ours && reason.kind === 'host') {
    const script = await ask(workerUrl).catch(() => undefined);
    if (script?.status !== 404) return { found: reason, sound: true };
    const hint = 'page and server are of different versions: update the older one, or bundle worker and wasm with the page';
    return why(`the server has no ${workerUrl}`, { httpStatus: 404, hint });
  }
  if (ours && answer.ok) {
    const hint = 'its log says why: a proxy that passes on neither the upgrade nor Host, the origin, the token';
    return why('the server is there, but the WebSocket was refused', { hint }, true);
  }
  const httpHint = hint(status);
  if (httpHint) return why(`${url} answered ${status}`, { httpStatus: status, hint: httpHint });
  return why(`${url} is not a datasole server`, { httpStatus: status, hint: 'is the path proxied to it?' });
}

function hint(status: number): string | undefined {
  switch (status) {
    case 426:
      return 'a proxy in front does not pass the upgrade on';
    case 429:
      return 'something limits the rate of requests';
    case 401:
    case 403:
      return 'the token, the origin (--allow-origin), or something in between that asks for a login';
    case 502:
    case 503:
    case 504:
      return 'the server behind the proxy is away';
    default:
      return undefined;
  }
}
