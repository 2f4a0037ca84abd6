// Clients of the npm package that follow the state `n`: `node crowd.mjs URL COUNT`. Each line on stdin is a value, answered with
// the same line once all show it; `leave` ends. A client that gives up is said instead, and ends everything.

import { createInterface } from 'node:readline';

const npm = new URL('../../../npm/', import.meta.url);
const { DatasoleClient } = await import(new URL('dist/client.mjs', npm));
globalThis.WebSocket ??= (await import(new URL('node_modules/ws/wrapper.mjs', npm))).WebSocket;

const [url, count] = process.argv.slice(2);
const clients = Array.from({ length: Number(count) }, () => new DatasoleClient({ url, reconnectInterval: 100 }));
const shown = new Map();
let [leaving, wanted] = [false, undefined];

for (const client of clients) {
  await client.connect();
  client.onStatus((status) => {
    if (status.state !== 'disconnected' || leaving) return;
    console.log(`gave up: ${JSON.stringify(status.reason)}`);
    process.exit(1);
  });
  client.subscribeState('n', (value) => {
    shown.set(client, value);
    compare();
  });
}
console.log('connected');

for await (const line of createInterface({ input: process.stdin })) {
  if (line === 'leave') break;
  wanted = line;
  compare();
}
leaving = true;
await Promise.all(clients.map((client) => client.disconnect()));
console.log('leave');

function compare() {
  if (wanted === undefined || !clients.every((client) => String(shown.get(client)) === wanted)) return;
  console.log(wanted);
  wanted = undefined;
}
