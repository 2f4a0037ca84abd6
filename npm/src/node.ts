/** The file system and the sockets of Node. Loaded only where there is no page. */
import type { RefusedSocket, SocketConstructor } from './engine.js';
import { WASM_FILE } from './protocol.js';

/** From the file system of Node: `wasmUrl` is a path or file URL, or empty for the package's own. */
export async function readWasm(wasmUrl: string): Promise<ArrayBuffer> {
  // Named so that bundlers for browsers neither resolve the module nor look for the file.
  const [module, here] = ['node:fs/promises', import.meta.url];
  const { readFile } = await import(/* webpackIgnore: true */ /* @vite-ignore */ module);
  const file = wasmUrl ? (wasmUrl.startsWith('file:') ? new URL(wasmUrl) : wasmUrl) : new URL(WASM_FILE, here!);
  const bytes: Uint8Array = await readFile(file);
  return new Uint8Array(bytes).buffer;
}

/**
 * The socket of Node. The `ws` package takes headers as a third argument, Node's own WebSocket among the options that are its
 * second; only the former tells how an upgrade was refused.
 */
export function nodeSocket(headers: Record<string, string>): SocketConstructor | undefined {
  const Socket = globalThis.WebSocket as unknown as new (url: string, ...more: unknown[]) => WebSocket;
  if (!Socket) return;
  // Bun's own has `terminate`, too.
  const isWs = 'on' in Socket.prototype;
  if (!isWs && !Object.keys(headers).length) return;
  return class extends Socket {
    refusal?: RefusedSocket['refusal'];

    constructor(url: string, protocols: string[]) {
      if (!isWs) {
        super(url, { protocols, headers });
        return;
      }
      super(url, protocols, { headers });
      const ws = this as unknown as NodeSocket;
      ws.on('unexpected-response', (_, { statusCode, headers }) => {
        const seconds = +(headers['retry-after'] || NaN);
        const retryAfter = seconds >= 0 ? seconds * 1_000 : undefined;
        this.refusal = { status: statusCode, ours: 'datasole-refused' in headers, retryAfter };
        ws.terminate();
      });
    }
  };
}

interface NodeSocket {
  on(event: string, listener: (request: unknown, response: Refused) => void): void;
  terminate(): void;
}

interface Refused {
  statusCode: number;
  headers: Record<string, string | undefined>;
}
