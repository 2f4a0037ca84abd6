/** Things that only development builds have. */

/** Shows a client to consoles, to tests and to `datasole/devtools`, as one of `globalThis.__DATASOLE__`. */
export function showClient(client: object): void {
  const scope = globalThis as { __DATASOLE__?: object[] };
  const shown = (scope.__DATASOLE__ ??= []);
  if (!shown.includes(client)) shown.push(client);
}
