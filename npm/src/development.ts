/** Things that only development builds have. */
import type { DatasoleClient } from './slim.js';

/** Shows a client to consoles, to tests and to `datasole/devtools`, as one of `globalThis.__DATASOLE__`; those that have ended go. */
export function showClient(client: DatasoleClient<any>): void {
  const scope = globalThis as { __DATASOLE__?: DatasoleClient<any>[] };
  const others = (scope.__DATASOLE__ ?? []).filter((other) => other !== client && other.getConnectionState() !== 'disconnected');
  scope.__DATASOLE__ = [...others, client];
}
