/**
 * Sessions: what a core was told, and when, from which all that it did follows. docs/sessions.md has the format.
 */
import { createGlue, type Core } from '../generated/glue.js';
import type { CoreInput, HostOptions } from './protocol.js';

/** How much of a session is kept; bytes. Beyond, the oldest is dropped. */
export const MAX_BYTES = 8 * 1024 * 1024;
/** What an input costs beside its payload. */
const INPUT = 256;

/** Keeps what a core is told. */
export class Recording {
  readonly #head: object;
  #inputs: [at: number, input: CoreInput, size: number][] = [];
  #bytes = 0;
  #dropped = 0;

  constructor(build: string, options: HostOptions, seed: Uint8Array) {
    this.#head = { session: 2, build, options, seed };
  }

  /** An input that is about to be performed. Its bytes must not change afterwards. */
  add(at: number, input: CoreInput): void {
    const { json, bytes } = input as { json?: string; bytes?: Uint8Array };
    const size = INPUT + (json ?? bytes ?? '').length;
    this.#inputs.push([at, input, size]);
    this.#bytes += size;
    while (this.#bytes > MAX_BYTES) {
      // Many at a time: the front of a long array is dear.
      const old = this.#inputs.splice(0, Math.ceil(this.#inputs.length / 8));
      this.#dropped += old.length;
      for (const [, , size] of old) this.#bytes -= size;
    }
  }

  /** The session so far, without outputs. */
  text(): string {
    const head = { ...this.#head, dropped: this.#dropped || undefined };
    return [head, ...this.#inputs.map(([at, input]) => ({ at: Math.floor(at), in: input }))].map(line).join('');
  }
}

/** Does a session again with a core of `module`: its text, with what the core does at each input. */
export async function replay(module: WebAssembly.Module, text: string): Promise<string> {
  const [head, ...lines] = text.split('\n');
  const { seed, options }: { seed: Uint8Array; options: HostOptions } = JSON.parse(head!, revive);
  let now = 0;
  let done = `${head}\n`;
  const { Core, init } = createGlue({ performance: { now: () => now }, crypto: { getRandomValues: (bytes) => bytes.set(seed) } });
  await init(module);
  const out = (output: object) => void (done += line({ out: output }));
  const core = new Core(options, {
    open: (socket: number, url: string, protocols: string) => out({ t: 'open', socket, url, protocols }),
    send: (socket: number, bytes: Uint8Array) => out({ t: 'send', socket, bytes }),
    shut: (socket: number, code: number, reason: string) => out({ t: 'shut', socket, code, reason }),
    arm: (delay: number) => out({ t: 'arm', delay }),
    text: (text: string) => out({ t: 'text', text }),
    bytes: (bytes: Uint8Array) => out({ t: 'bytes', bytes }),
    soon: (urgency: number) => out({ t: 'soon', urgency }),
    panicked: (message: string) => out({ t: 'panicked', message }),
  });
  for (const text of lines) {
    const { at, in: input }: { at: number; in?: CoreInput } = text ? JSON.parse(text, revive) : {};
    if (!input) continue;
    done += `${text}\n`;
    now = at;
    perform(core, input);
  }
  return done;
}

/** Hands an input to a core. */
export function perform(core: Core, input: CoreInput): void {
  switch (input.t) {
    case 'message':
      return core.message(input.socket, input.bytes);
    case 'take':
      return core.take();
    case 'timeout':
      return core.timeout();
    case 'opened':
      return core.opened(input.socket, input.protocol);
    case 'closed':
      return core.closed(input.socket, input.code, input.reason, input.ours, input.retryAfter);
    case 'connect':
      return core.connect();
    case 'close':
      return core.close();
    case 'call':
      return core.call(input.id, input.method, input.json, input.bytes, input.timeout, input.queue);
    case 'cancel':
      return core.cancel(input.id);
    case 'emit':
      return core.emit(input.event, input.json, input.bytes, input.queue);
    case 'subscribe':
      return core.follow(input.id, input.kind, input.key, input.since?.epoch, input.since?.seq);
    case 'unsubscribe':
      return core.unfollow(input.id, input.linger);
    case 'resync':
      return core.resync(input.key, input.applied);
    case 'open':
      return core.stream(input.t, input.kind, input.key, input.throttle);
    case 'leave':
      return core.stream(input.t, input.kind, input.key);
    case 'edit':
      return core.stream(input.t, input.kind, input.key, input.id, input.json, input.bytes);
    case 'show':
      return core.stream(input.t, input.kind, input.key, undefined, input.json);
    case 'aware':
    case 'answer':
      return core.stream(input.t, input.kind, input.key, undefined, undefined, input.bytes);
    case 'unfit':
      return core.stream(input.t, input.kind, input.key, +input.applied);
    case 'hint':
      return core.hint(input.kind);
    case 'token':
      return core.token(input.token, input.error);
  }
}

/** A line of the file: JSON, with bytes in base64. */
function line(fields: object): string {
  return `${JSON.stringify(fields, (_, value) => (value instanceof Uint8Array ? btoa(latin(value)) : finite(value)))}\n`;
}

/** What JSON can say: it has no time without an end, so that the longest stands for it. */
function finite(value: unknown): unknown {
  if (typeof value !== 'number' || Number.isFinite(value)) return value;
  return value > 0 ? Number.MAX_SAFE_INTEGER : 0;
}

/** One character for each byte. */
function latin(bytes: Uint8Array): string {
  let text = '';
  for (let at = 0; at < bytes.length; at += 8_192) text += String.fromCharCode(...bytes.subarray(at, at + 8_192));
  return text;
}

/** The members of a line that are bytes. */
function revive(key: string, value: unknown): unknown {
  return typeof value === 'string' && /^(bytes|seed)$/.test(key) ? Uint8Array.from(atob(value), (char) => char.charCodeAt(0)) : value;
}
