/** The event topics that a client follows, and their handlers. */
import type { EventHandler } from './contract.js';
import { call, listen } from './handlers.js';
import type { FromWorker } from './protocol.js';
import { LINGER_MS, type FollowHost } from './store.js';

interface Topic {
  /** The subscription; 0 once it was refused. */
  id: number;
  handlers: Set<EventHandler<unknown>>;
  /** Events may have been missed. */
  followed?: boolean;
}

/** See the module. */
export class Topics {
  readonly #topics = new Map<string, Topic>();
  readonly #missed = new Set<(event: string) => void>();
  readonly #host: FollowHost;

  constructor(host: FollowHost) {
    this.#host = host;
  }

  on(event: string, handler: EventHandler<unknown>): void {
    let topic = this.#topics.get(event);
    if (!topic) this.#topics.set(event, (topic = { id: 0, handlers: new Set() }));
    topic.id ||= this.#host.follow('event', event);
    topic.handlers.add(handler);
  }

  off(event: string, handler: EventHandler<unknown>): void {
    const topic = this.#topics.get(event);
    if (topic?.handlers.delete(handler) && !topic.handlers.size) {
      if (!topic.id) this.#topics.delete(event);
      this.#host.send({ t: 'unsubscribe', id: topic.id, linger: LINGER_MS });
      topic.id = 0;
    }
  }

  onMissed(handler: (event: string) => void): () => void {
    return listen(this.#missed, handler);
  }

  event({ event, data, bin, timestamp }: FromWorker & { t: 'event' }, binaries: Uint8Array[]): void {
    const topic = this.#topics.get(event);
    if (topic) call(topic.handlers, { event, data: binaries[bin!] ?? data, timestamp });
  }

  /** A subscription was answered. */
  subscribed(event: string, recovered: boolean): void {
    const topic = this.#topics.get(event);
    if (!topic) return;
    if (topic.followed && !recovered) call(this.#missed, event);
    topic.followed = true;
  }

  /** The core has left a topic. Whoever follows it by now has asked for it anew. */
  left(event: string): void {
    const topic = this.#topics.get(event);
    if (topic?.handlers.size) topic.followed = false;
    else this.#topics.delete(event);
  }

  /** The server refused a topic; the next connection asks again. */
  refused(event: string): void {
    const topic = this.#topics.get(event);
    if (topic) topic.id = 0;
  }

  /** Subscribes all topics on a new core; on a new connection, those that were `refused`. */
  renew(refused?: boolean): void {
    for (const [event, topic] of this.#topics) {
      if (topic.handlers.size && (!refused || !topic.id)) topic.id = this.#host.follow('event', event);
    }
  }
}
