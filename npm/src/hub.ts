/**
 * The shared worker's half of `shared: true`: one engine for many pages. Gives their ids one numbering, and each page its share
 * of what the engine says.
 *
 * A stream is followed once, whatever pages follow it; a page that comes later is shown the state that is here. A page ends when it
 * says so, or when {@link Hub.leave} is told that it is gone: nothing of it stays but the CRDT operations that are under way.
 * Documents are of the page, and ask it questions: each page that opens some has an engine of its own for them.
 */
import type { CreateEngine, Engine } from './engine.js';
import { Documents, Page, read, type Followed, type From, type PagePort, type To } from './page.js';
import { applyPatch, refuse } from './patch.js';
import { PROTOCOL_VERSION, type Batch, type FromWorker, type StreamMessage, type StreamName, type ToWorker } from './protocol.js';

type Command = Extract<ToWorker, { kind: 'crdt' | 'presence' | 'doc' | 'host' }>;

/** A question for a token, and the pages that may still answer. */
interface Asked {
  engine: Engine;
  pages: Set<Page>;
}

/** How long a page may take to name the lock that it holds. */
const PATIENCE_MS = 30_000;

/** See the module. One life of an engine; `ended` is called when it is over. */
export class Hub {
  readonly #make: CreateEngine;
  readonly #engine: Engine;
  readonly #ended: () => void;
  readonly #pages = new Set<Page>();
  readonly #followed = new Map<string, Followed>();
  /** The pages of calls and edits, and their ids there. */
  readonly #calls = new Map<number, [page: Page, id: number]>();
  readonly #edits = new Map<number, [page: Page, id: number]>();
  /** The pages that sent events, by name. */
  readonly #emitters = new Map<string, Page>();
  #lastId = 0;
  /** The first page's. */
  #init?: To<'init'>;
  #ready?: From<'ready'>;
  #status?: From<'status'>;
  /** When the status came. */
  #since = 0;
  #asked: Asked[] = [];

  constructor(make: CreateEngine, ended: () => void) {
    this.#make = make;
    this.#ended = ended;
    this.#engine = make((batch) => this.#receive(batch));
  }

  /** A page begins; what it posts is for {@link post}. */
  enter(port: PagePort): Page {
    const page = new Page(port);
    this.#pages.add(page);
    page.alone({ t: 'here', v: PROTOCOL_VERSION });
    // One way less for those that come later.
    if (this.#ready) page.alone(this.#ready);
    return page;
  }

  /** A page is gone. */
  leave(page: Page): void {
    page.port.close();
    if (!this.#pages.delete(page)) return;
    page.documents?.engine.end(true);
    while (this.#asked.some(({ pages }) => pages.has(page))) this.#token(page, { t: 'token', error: 'the tab is gone' });
    for (const [name, emitter] of this.#emitters) if (emitter === page) this.#emitters.delete(name);
    const out: ToWorker[] = [...page.calls.values()].map((id) => ({ t: 'cancel', id }));
    for (const of of this.#followed.values()) this.#drop(page, of, out);
    this.#engine.post(out);
    if (this.#pages.size) return;
    this.#engine.end(true);
    this.#ended();
  }

  /** What a page has posted. */
  post(page: Page, messages: ToWorker[]): void {
    const out: ToWorker[] = [];
    for (const message of messages) if (this.#pages.has(page)) this.#perform(page, message, out);
    this.#engine.post(out);
    page.flush();
  }

  #perform(page: Page, message: ToWorker, out: ToWorker[]): void {
    switch (message.t) {
      case 'init':
        if (!this.#init) out.push((this.#init = message));
        return;
      case 'close':
        this.#engine.post(out.splice(0));
        return this.leave(page);
      case 'connect':
        page.documents?.post(message);
        if (this.#status && this.#status.state !== 'disconnected') page.tell(this.#now(this.#status));
        break;
      case 'call': {
        const id = this.#number(this.#calls, page, message.id);
        page.calls.set(message.id, id);
        return void out.push({ ...message, id });
      }
      case 'cancel': {
        const id = page.calls.get(message.id);
        if (id) out.push({ t: 'cancel', id });
        return;
      }
      case 'emit':
        this.#emitters.set(message.event, page);
        break;
      case 'subscribe':
        return this.#subscribe(page, message, out);
      case 'unsubscribe':
        return this.#unsubscribe(page, message);
      case 'resync': {
        const of = this.#followed.get(`state ${message.key}`);
        return of && this.#ask(of, message, out);
      }
      case 'hint':
        page.documents?.post(message);
        break;
      case 'token':
        return this.#token(page, message);
      default:
        return this.#stream(page, message, out);
    }
    out.push(message);
  }

  #subscribe(page: Page, { id, kind, key, since }: To<'subscribe'>, out: ToWorker[]): void {
    const of = this.#of(kind, key);
    const known = of.pages.get(page);
    const follower = known ?? { ids: new Set() };
    clearTimeout(follower.timer);
    follower.ids.add(id);
    page.following.set(id, of);
    of.pages.set(page, follower);
    const asks = !of.id;
    if (asks) out.push({ t: 'subscribe', id: (of.id = ++this.#lastId), kind, key, since: (of.since = since) });
    if (known) return;
    if (kind === 'event') {
      // A page that followed it before, with another engine, may have missed some.
      if (of.answered) page.tell({ t: 'subscribed', kind, key, recovered: false });
      return;
    }
    const { mirror, fresh } = of;
    // What a server has rendered may be newer than what was here before the connection was lost.
    if (mirror && (fresh || !since)) page.tell({ t: 'snapshot', key, rev: mirror.rev, value: mirror.value, old: !fresh || undefined });
    else if (!asks && (mirror || of.answered || of.since)) this.#ask(of, { t: 'resync', key, applied: true }, out);
  }

  #unsubscribe(page: Page, { id, linger }: To<'unsubscribe'>): void {
    const of = page.following.get(id);
    const follower = of?.pages.get(page);
    page.following.delete(id);
    if (!follower?.ids.delete(id) || follower.ids.size) return;
    follower.timer = setTimeout(() => {
      const out: ToWorker[] = [];
      this.#drop(page, of!, out);
      this.#engine.post(out);
      page.tell({ t: 'left', kind: of!.kind, key: of!.key });
      page.flush();
    }, linger);
  }

  /** A command on an open stream. */
  #stream(page: Page, message: Command, out: ToWorker[]): void {
    if (message.kind === 'host') {
      // Of the engine that all share. Answers are for all, and name the question.
      if (message.t === 'open') this.#of(message.kind, message.key).pages.set(page, { ids: new Set() });
      return void out.push(message);
    }
    const { kind, key } = message;
    if (kind === 'doc') {
      page.documents ??= new Documents(this.#make, this.#init!, page, (engine) => this.#askToken(engine, [page]));
      return page.documents.post(message);
    }
    const of = message.t === 'open' ? this.#of(kind, key) : this.#followed.get(`${kind} ${key}`);
    if (!of) return;
    switch (message.t) {
      case 'open': {
        const first = !of.pages.size;
        of.pages.set(page, { ids: new Set() });
        if (first) break;
        if (of.progress) page.tell(of.progress);
        return this.#ask(of, { t: 'unfit', kind, key, applied: true }, out);
      }
      case 'leave':
        return this.#drop(page, of, out);
      case 'edit':
        return void out.push({ ...message, id: this.#number(this.#edits, page, message.id) });
      case 'show':
        return this.#show(page, of, message.json, out);
      case 'unfit':
        return this.#ask(of, message, out);
    }
    out.push(message);
  }

  /** Shows a page's value in a room; without one, that of another page. */
  #show(page: Page, { key, shown }: Followed, json: string | undefined, out: ToWorker[]): void {
    const last = [...shown.keys()].at(-1);
    shown.delete(page);
    if (json) shown.set(page, json);
    else if (last !== page) return;
    out.push({ t: 'show', kind: 'presence', key, json: json ?? [...shown.values()].at(-1) });
  }

  /** Asks for the whole value of a stream, once until it comes. */
  #ask(of: Followed, message: ToWorker, out: ToWorker[]): void {
    if (!of.asked) out.push(message);
    of.asked = true;
  }

  /** A page follows a stream no more. */
  #drop(page: Page, of: Followed, out: ToWorker[]): void {
    const { kind, key, id, pages } = of;
    this.#show(page, of, undefined, out);
    clearTimeout(pages.get(page)?.timer);
    if (!pages.delete(page) || pages.size) return;
    this.#followed.delete(`${kind} ${key}`);
    if (id) out.push({ t: 'unsubscribe', id, linger: 0 });
    else out.push({ t: 'leave', kind: kind as StreamName['kind'], key });
  }

  /** A page's answer; one that has no token, or is gone, may not be the last one asked. */
  #token(page: Page, message: To<'token'>): void {
    const asked = this.#asked.find(({ pages }) => pages.delete(page));
    if (!asked || (message.error !== undefined && asked.pages.size)) return;
    this.#asked.splice(this.#asked.indexOf(asked), 1);
    asked.engine.post([message]);
  }

  #askToken(engine: Engine, pages: Iterable<Page>): void {
    const asked = { engine, pages: new Set(pages) };
    this.#asked = [...this.#asked.filter((earlier) => earlier.engine !== engine), asked];
    for (const page of asked.pages) page.tell({ t: 'token' }), page.flush();
  }

  #receive(batch: Batch): void {
    const [messages, binaries] = read(batch);
    messages.forEach((message, at) => this.#route(message, binaries, messages[at + 1]));
    for (const page of this.#pages) page.flush();
  }

  #route(message: FromWorker, binaries: Uint8Array[], next?: FromWorker): void {
    switch (message.t) {
      case 'here':
      case 'left':
        return;
      case 'ready':
        this.#ready = message;
        for (const page of this.#pages) page.alone(message);
        return;
      case 'fatal':
        for (const page of this.#pages) page.alone(message), page.documents?.engine.end(true);
        this.#pages.clear();
        return this.#ended();
      case 'token':
        return this.#askToken(this.#engine, this.#pages);
      case 'status':
        [this.#status, this.#since] = [message, performance.now()];
        if (message.state !== 'connected') for (const of of this.#followed.values()) of.fresh = false;
        return tell(this.#pages, message);
      case 'done': {
        const [page, id] = this.#taken(this.#calls, message.id);
        page?.calls.delete(id);
        return page?.tell({ ...message, id }, binaries);
      }
      case 'refused':
        return this.#refused(message);
      case 'event':
        return tell(this.#readers('event', message.event), message, binaries);
      case 'snapshot':
      case 'patch':
        this.#mirror(message);
        return tell(this.#readers('state', message.key), message);
      case 'settled': {
        const [page, id] = this.#taken(this.#edits, message.id);
        return page?.tell({ ...message, id });
      }
      case 'rejected': {
        // The outcome of the edit comes next; of a room, those that show something are told.
        const [author] = (next?.t === 'settled' && this.#edits.get(next.id)) || [];
        const shown = this.#followed.get(`${message.kind} ${message.key}`)?.shown;
        return author ? author.tell(message) : this.#spread(message, binaries, shown?.size ? shown.keys() : undefined);
      }
      default:
        return this.#spread(message, binaries);
    }
  }

  /** Tells the pages of a stream, or some of them. */
  #spread(message: StreamMessage | From<'subscribed'>, binaries: Uint8Array[], pages?: Iterable<Page>): void {
    const of = 'kind' in message && this.#followed.get(`${message.kind} ${message.key}`);
    if (!of) return;
    if (message.t === 'subscribed') {
      of.answered = true;
      of.fresh ||= message.recovered || this.#status?.protocol === 1;
    }
    if (message.t === 'progress') of.progress = message;
    if (message.t === 'entry' && message.whole) of.asked = false;
    tell(pages ?? of.pages.keys(), message, binaries);
  }

  #refused(message: From<'refused'>): void {
    const { what, name } = message;
    const emitter = this.#emitters.get(name);
    if (what === 'emit') return tell(emitter ? [emitter] : this.#pages, message);
    const of = this.#followed.get(`${what} ${name}`);
    if (!of) return;
    tell(of.pages.keys(), message);
    // A tab that asks again asks anew.
    this.#followed.delete(`${what} ${name}`);
    for (const [page, { ids, timer }] of of.pages) {
      clearTimeout(timer);
      for (const id of ids) page.following.delete(id);
    }
  }

  /** Keeps a state for pages that come later. */
  #mirror(message: From<'snapshot' | 'patch'>): void {
    const { key, rev } = message;
    const of = this.#status?.protocol === 1 ? this.#of('state', key) : this.#followed.get(`state ${key}`);
    if (!of) return;
    if (message.t === 'snapshot') {
      of.mirror = { rev, value: message.value, owned: new Set(), text: 0 };
      of.asked = false;
      of.fresh = true;
      return;
    }
    const { mirror } = of;
    if (!mirror) return;
    try {
      if (rev !== mirror.rev + 1 && this.#status?.protocol !== 1) refuse();
      mirror.value = applyPatch(mirror.value, message.ops, mirror);
      mirror.rev = rev;
    } catch {
      // Nor does the patch fit the pages, which ask for the whole value.
      of.mirror = undefined;
    }
  }

  /** The pages that a message about a state or a topic is for; a server of version 1 sends what nobody follows. */
  #readers(kind: string, key: string): Iterable<Page> {
    return this.#status?.protocol === 1 ? this.#pages : (this.#followed.get(`${kind} ${key}`)?.pages.keys() ?? []);
  }

  /** A status with the times it has now. */
  #now(status: From<'status'>): From<'status'> {
    const passed = Math.round(performance.now() - this.#since);
    const { serverTime, retryInMs } = status;
    return {
      ...status,
      ...(serverTime && { serverTime: serverTime + passed }),
      ...(retryInMs && { retryInMs: Math.max(0, retryInMs - passed) }),
    };
  }

  #of(kind: string, key: string): Followed {
    const name = `${kind} ${key}`;
    let of = this.#followed.get(name);
    if (!of) this.#followed.set(name, (of = { kind, key, id: 0, pages: new Map(), shown: new Map() }));
    return of;
  }

  /** A number of the engine's for a page's. */
  #number(numbers: Map<number, [Page, number]>, page: Page, id: number): number {
    numbers.set(++this.#lastId, [page, id]);
    return this.#lastId;
  }

  #taken(numbers: Map<number, [Page, number]>, number: number): [Page | undefined, number] {
    const [page, id] = numbers.get(number) ?? [undefined, 0];
    numbers.delete(number);
    return [page && this.#pages.has(page) ? page : undefined, id];
  }
}

/** Tells pages the same, written once. */
function tell(pages: Iterable<Page>, message: FromWorker, binaries: Uint8Array[] = []): void {
  let text: string | undefined;
  for (const page of pages) page.tell(message, binaries, (text ??= 'bin' in message ? '' : JSON.stringify(message)));
}

/** Answers the pages that connect to a shared worker: by a hub, and the next one when its engine has failed. */
export function serve(locks: LockManager, make: CreateEngine): (event: { ports: readonly MessagePort[] }) => void {
  let hub: Hub | undefined;
  const lock = `datasole worker ${crypto.randomUUID()}`;
  const held = new Promise<void>((resolve) => void locks.request(lock, () => (resolve(), new Promise(() => {}))));
  return ({ ports: [port] }) =>
    void held.then(() => {
      port!.postMessage({ lock });
      const mine: Hub = (hub ??= new Hub(make, () => (hub = hub === mine ? undefined : hub)));
      const page = mine.enter(port!);
      const gone = () => mine.leave(page);
      const timer = setTimeout(gone, PATIENCE_MS);
      port!.onmessage = ({ data }: MessageEvent<string | ToWorker[]>) => {
        if (typeof data !== 'string') return mine.post(page, data);
        clearTimeout(timer);
        // The page holds it until it is gone.
        void locks.request(data, gone);
      };
    });
}
