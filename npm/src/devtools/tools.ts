/** The page's side of the tools of a client's host: sessions, and a network as bad as one likes. */
import type { SessionOptions, Simulated } from '../devtools.js';
import type { ToolsAnswer, ToolsCommand, ToolsName } from '../protocol.js';
import type { DatasoleClient } from '../slim.js';
import type { Stream } from '../streams.js';
import { redact } from './redact.js';

const DISCONNECTED = 'this client is disconnected';

interface Question {
  resolve(text: string | undefined): void;
  reject(error: Error): void;
}

const known = new WeakMap<DatasoleClient<any>, Tools>();

/** The tools of a client. */
export function toolsOf(client: DatasoleClient<any>): Tools {
  let tools = known.get(client);
  if (!tools) known.set(client, (tools = new Tools(client)));
  return tools;
}

/** See `saveSession` of `datasole/devtools`. */
export async function saveSession(client: DatasoleClient<any>, options?: SessionOptions): Promise<string> {
  const tools = toolsOf(client);
  const text = await tools.save();
  if (text === undefined) throw new Error('this client records no session: make it with `record: true`');
  const redacted = await redact(text, options);
  return JSON.parse(redacted.split('\n')[0]!).dropped ? redacted : tools.replay(redacted);
}

class Tools {
  /** The network as it is simulated. */
  network: Simulated = { offline: false, latency: 0 };
  readonly #client: DatasoleClient<any>;
  readonly #send: (command: ToolsCommand) => void;
  readonly #asked = new Map<string, Question>();

  constructor(client: DatasoleClient<any>) {
    this.#client = client;
    const name: ToolsName = { kind: 'host', key: 'tools' };
    const stream: Stream = {
      entry: ({ data }) => this.#answered(data as ToolsAnswer),
      renew: () => this.#renewed(),
    };
    // An open stream as any other, but that the host answers it.
    const port = client.streams.open(name as never, stream);
    this.#send = port.send as (command: ToolsCommand) => void;
    // Nothing that was asked will be answered. Not a handler of the status: where there is none, the client tells the console.
    client.store.watchers.add(() => client.getConnectionState() === 'disconnected' && this.#refuse(DISCONNECTED));
  }

  /** The session so far; nothing where none is recorded. */
  save(): Promise<string | undefined> {
    return this.#ask({ t: 'save' });
  }

  /** A session with what its core does at each input. */
  async replay(text: string): Promise<string> {
    return (await this.#ask({ t: 'replay', text }))!;
  }

  simulate(change: Simulated): void {
    const { drop, ...network } = change;
    this.network = { ...this.network, ...network };
    this.#send({ t: 'simulate', ...change });
  }

  #ask(command: { t: 'save' } | { t: 'replay'; text: string }): Promise<string | undefined> {
    return new Promise((resolve, reject) => {
      if (this.#client.getConnectionState() === 'disconnected') return reject(new Error(DISCONNECTED));
      const id = `${Math.random()}`;
      this.#asked.set(id, { resolve, reject });
      this.#send({ ...command, id });
    });
  }

  #answered({ id, text, error, network }: ToolsAnswer): void {
    // Another tab may have changed it, too.
    if (network) this.network = network;
    if (id === undefined) return;
    const question = this.#asked.get(id);
    this.#asked.delete(id);
    if (error) question?.reject(new Error(error));
    else question?.resolve(text);
  }

  /** Another host has taken over. */
  #renewed(): void {
    this.#refuse('the worker was replaced');
    const { offline, latency } = this.network;
    if (offline || latency) this.#send({ t: 'simulate', offline, latency });
  }

  #refuse(why: string): void {
    for (const { reject } of this.#asked.values()) reject(new Error(why));
    this.#asked.clear();
  }
}
