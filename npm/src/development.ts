/** Things that only development builds have. */
import type { DatasoleClient } from './slim.js';

/** The page, or whatever runs this. */
interface Scope {
  __DATASOLE__?: DatasoleClient<any>[];
  dispatchEvent?: (event: Event) => boolean;
}

/** The event of the page when `globalThis.__DATASOLE__` has become another array. */
export const CLIENTS_CHANGED = 'datasole:clients';

/** Shows a client to consoles, to tests and to `datasole/devtools`, as one of `globalThis.__DATASOLE__`. */
export function showClient(client: DatasoleClient<any>): void {
  setClients([...shown().filter((other) => other !== client), client]);
}

/** The client has ended. */
export function hideClient(client: DatasoleClient<any>): void {
  if (shown().includes(client)) setClients(shown().filter((other) => other !== client));
}

/** Makes these the clients that are shown, and tells the page. */
export function setClients(clients: DatasoleClient<any>[]): void {
  const scope = globalThis as Scope;
  scope.__DATASOLE__ = clients;
  scope.dispatchEvent?.(new Event(CLIENTS_CHANGED));
}

/** The clients that are shown. */
export function shown(): DatasoleClient<any>[] {
  return (globalThis as Scope).__DATASOLE__ ?? [];
}
