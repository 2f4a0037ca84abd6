// The provider for Yjs documents, on a channel whose other end is a server made of the test's own Y.Doc.
import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import * as awarenessProtocol from 'y-protocols/awareness';
import * as Y from 'yjs';
import type { Channel, ChannelHandlers } from '../src/channel.js';
import { DatasoleError, ErrorCode } from '../src/errors.js';
import type { Status } from '../src/status.js';
import { DatasoleProvider, type ChannelClient, type DatasoleProviderOptions } from '../src/yjs.js';

/** A message as other implementations of the protocol write it; lengths here are below 128. */
const message = (head: number[], content: Uint8Array) => Uint8Array.from([...head, ...varuint(content.length), ...content]);
const varuint = (n: number): number[] => (n < 128 ? [n] : [(n % 128) | 128, ...varuint(Math.floor(n / 128))]);

/** What follows the head and the length. */
function content(message: Uint8Array, head: number): Uint8Array {
  let at = head;
  while (message[at]! > 127) at++;
  return message.subarray(at + 1);
}

/** Documents, clients and what goes between them. */
class Server {
  readonly doc = new Y.Doc();
  readonly members = new Set<Client>();
  /** Answers to submissions: undefined is an acknowledgement, null none at all. */
  answer: (bytes: Uint8Array) => DatasoleError | undefined | null = () => undefined;

  client(options?: DatasoleProviderOptions, doc = new Y.Doc()): Client {
    return new Client(this, doc, options);
  }
}

class Client {
  readonly sent: Uint8Array[] = [];
  readonly errors: any[] = [];
  readonly client: ChannelClient;
  readonly provider: DatasoleProvider;
  readonly unanswered: (() => void)[] = [];
  status!: (status: Status) => void;
  handlers!: ChannelHandlers;
  opened = 0;

  constructor(
    readonly server: Server,
    readonly doc: Y.Doc,
    options?: DatasoleProviderOptions,
  ) {
    const onStatus = (handler: (status: Status) => void) => {
      this.status = handler;
      handler({ state: 'connecting' });
      return () => {};
    };
    this.client = { openChannel: (_kind, _key, handlers) => this.#open(handlers), onStatus };
    this.provider = new DatasoleProvider(this.client, 'k', doc, options);
    this.provider.on('error', (error) => this.errors.push(error));
    opened.push(this);
  }

  #open(handlers: ChannelHandlers): Channel {
    // Of the first provider: others on this client hear nothing from the server.
    this.handlers ??= handlers;
    this.opened++;
    return {
      submit: async (data) => this.#submit(data as Uint8Array),
      notify: (data) => this.#notify(data),
      close: () => this.server.members.delete(this),
    };
  }

  get text(): string {
    return this.doc.getText('t').toString();
  }

  type(text: string): void {
    const all = this.doc.getText('t');
    all.insert(all.length, text);
  }

  connect(): void {
    this.server.members.add(this);
    this.status({ state: 'connected' });
    this.handlers.subscribed(false);
    this.#hear([0, 0], Y.encodeStateVector(this.server.doc));
  }

  disconnect(): void {
    this.server.members.delete(this);
    this.status({ state: 'reconnecting' });
  }

  #hear(head: number[], bytes: Uint8Array): void {
    this.handlers.entry(message(head, bytes), false);
  }

  #notify(data: Uint8Array): void {
    if (!this.server.members.has(this)) return;
    this.sent.push(data);
    if (data[0] === 1) {
      for (const other of this.server.members) if (other !== this) other.handlers.entry(data, false);
    } else {
      this.#hear([0, 1], Y.encodeStateAsUpdate(this.server.doc, content(data, 2)));
    }
  }

  async #submit(data: Uint8Array): Promise<void> {
    if (!this.server.members.has(this)) throw failure(ErrorCode.NotConnected);
    this.sent.push(data);
    const answer = this.server.answer(data);
    if (answer) throw answer;
    if (answer === null) await new Promise<void>((resolve) => this.unanswered.push(resolve));
    const update = content(data, 2);
    Y.applyUpdate(this.server.doc, update);
    for (const other of this.server.members) if (other !== this) other.#hear([0, 2], update);
  }
}

const opened: Client[] = [];
const failure = (code: number, retryAfter?: number) => new DatasoleError({ code, message: 'no', retryable: false, retryAfter });
const turn = () => new Promise((resolve) => setImmediate(resolve));

afterEach(() => {
  for (const client of opened.splice(0)) {
    client.provider.destroy();
    client.provider.awareness.destroy();
  }
});

describe('DatasoleProvider', () => {
  it('brings documents together, with what was there before and without a connection', async () => {
    const server = new Server();
    const [a, b] = [server.client(), server.client()];
    a.type('a');
    assert.deepEqual([a.provider.pending, a.provider.synced], [1, false]);
    a.connect();
    b.connect();
    await turn();
    assert.deepEqual([a.text, b.text, a.provider.pending, a.provider.synced], ['a', 'a', 0, true]);
    a.disconnect();
    assert.equal(a.provider.synced, false);
    for (const letter of 'xyz') a.type(letter);
    b.type('b');
    await turn();
    assert.equal(a.provider.pending, 3);
    a.connect();
    await turn();
    assert.deepEqual([a.text, a.provider.pending], [b.text, 0]);
    assert.equal([...a.text].sort().join(''), 'abxyz');
    assert.deepEqual([...a.errors, ...b.errors], []);
  });

  it('adds little to a single character', async () => {
    const client = new Server().client();
    client.connect();
    await turn();
    const updates: Uint8Array[] = [];
    client.doc.on('update', (update: Uint8Array) => updates.push(update));
    for (const letter of 'hello') client.type(letter);
    const frames = client.sent.slice(-5);
    // Header and channel.
    frames.forEach((frame, index) => assert.ok(9 + 1 + frame.length <= 1.3 * (9 + updates[index]!.length)));
  });

  it('lets undo take back only own edits', async () => {
    const server = new Server();
    const [a, b] = [server.client(), server.client()];
    a.connect();
    b.connect();
    const undo = new Y.UndoManager(a.doc.getText('t'));
    a.type('mine');
    await turn();
    b.type('theirs');
    await turn();
    undo.undo();
    await turn();
    assert.deepEqual([a.text, b.text], ['theirs', 'theirs']);
  });

  it('has at most 32 updates under way, and the rest in one', async () => {
    const server = new Server();
    const client = server.client();
    client.connect();
    await turn();
    client.sent.length = 0;
    server.answer = () => null;
    for (let count = 0; count < 100; count++) client.type('x');
    assert.deepEqual([client.sent.length, client.provider.pending], [32, 100]);
    server.answer = () => undefined;
    for (const answer of client.unanswered) answer();
    await turn();
    assert.deepEqual([client.sent.length, client.provider.pending], [33, 0]);
    assert.equal(server.doc.getText('t').length, 100);
  });

  it('tells what was refused', async () => {
    const server = new Server();
    const client = server.client();
    server.answer = () => failure(ErrorCode.Forbidden);
    client.connect();
    await turn();
    assert.deepEqual(client.errors, [], 'a reader has nothing to say');
    client.type('x');
    await turn();
    assert.deepEqual([client.errors.map(({ code }) => code), client.provider.pending], [[ErrorCode.Forbidden], 0]);
  });

  it('asks again after a limit, with everything', async () => {
    const server = new Server();
    const client = server.client();
    client.connect();
    await turn();
    server.answer = (bytes) => (bytes[1] === 2 ? failure(ErrorCode.Limit, 1) : undefined);
    client.type('x');
    client.type('y');
    await turn();
    assert.deepEqual([client.provider.pending, client.errors], [2, []]);
    while (client.opened < 2) await turn();
    client.connect();
    await turn();
    assert.deepEqual([server.doc.getText('t').toString(), client.provider.pending], ['xy', 0]);
  });

  it('is not harmed by what makes no sense', async () => {
    const client = new Server().client();
    client.connect();
    for (const bytes of [[], [0], [0, 2], [0, 2, 5, 1], [0, 2, 1, 255], [0, 0, 1, 255], [1, 1, 9], [7, 7]]) {
      client.handlers.entry(Uint8Array.from(bytes), false);
    }
    client.type('x');
    await turn();
    assert.ok(client.errors.length > 0);
    assert.deepEqual([client.text, client.provider.pending], ['x', 0]);
  });

  it('shows cursors to others, again after a reconnect, and not after it has ended', async () => {
    const server = new Server();
    const [a, b] = [server.client({ awarenessThrottle: 0 }), server.client({ awarenessThrottle: 0 })];
    const names = () => [...b.provider.awareness.getStates().values()].map(({ user }) => user).filter(Boolean);
    a.connect();
    b.connect();
    a.provider.awareness.setLocalStateField('user', 'ann');
    assert.deepEqual(names(), ['ann']);
    b.disconnect();
    assert.deepEqual(names(), []);
    b.connect();
    a.disconnect();
    a.connect();
    assert.deepEqual(names(), ['ann']);
    a.provider.destroy();
    assert.deepEqual(names(), []);
    a.type('unheard');
    await turn();
    assert.equal(b.text, '');
  });

  it('announces the last of many cursors', async () => {
    const server = new Server();
    const [a, b] = [server.client({ awarenessThrottle: 5 }), server.client()];
    a.connect();
    b.connect();
    a.sent.length = 0;
    for (let at = 0; at < 100; at++) a.provider.awareness.setLocalStateField('cursor', at);
    const cursor = () => b.provider.awareness.getStates().get(a.doc.clientID)?.cursor;
    while (cursor() !== 99) await turn();
    assert.ok(a.sent.length <= 3, `${a.sent.length}`);
  });

  it('leaves once the server has what was typed before, and hears nothing meanwhile', async () => {
    const server = new Server();
    const [a, b, c] = [server.client(), server.client(), server.client()];
    for (const client of [a, c]) client.connect();
    await turn();
    b.type('b');
    b.provider.destroy();
    server.answer = () => null;
    for (let count = 0; count < 40; count++) a.type('a');
    a.provider.destroy();
    assert.deepEqual([a.provider.pending, b.provider.pending, server.members.has(a)], [40, 1, true]);
    server.answer = () => undefined;
    for (const answer of a.unanswered) answer();
    b.connect();
    c.type('c');
    await turn();
    assert.equal([...server.doc.getText('t').toString()].sort().join(''), `${'a'.repeat(40)}bc`);
    assert.deepEqual([a.text.length, b.text, a.provider.pending, b.provider.pending], [40, 'b', 0, 0]);
    assert.deepEqual([...server.members], [c]);
  });

  it('shares a document with others on the same client, which the server tells nothing of it', async () => {
    const server = new Server();
    const a = server.client({ awarenessThrottle: 0 });
    const doc = new Y.Doc();
    const b = new DatasoleProvider(a.client, 'k', doc, { awarenessThrottle: 0 });
    const other = new DatasoleProvider(a.client, 'other', new Y.Doc());
    a.type('a');
    a.connect();
    a.provider.awareness.setLocalStateField('user', 'ann');
    await turn();
    a.type('b');
    await turn();
    assert.equal(doc.getText('t').toString(), 'ab');
    assert.equal(b.awareness.getStates().get(a.doc.clientID)?.user, 'ann');
    assert.equal(other.doc.getText('t').toString(), '');
    b.destroy();
    other.destroy();
    a.type('c');
    assert.equal(doc.getText('t').toString(), 'ab');
  });

  it('takes an awareness that is there, and leaves it', () => {
    const doc = new Y.Doc();
    const awareness = new awarenessProtocol.Awareness(doc);
    const { provider } = new Server().client({ awareness }, doc);
    assert.equal(provider.awareness, awareness);
    const events: unknown[] = [];
    provider.on('status', (state) => events.push(state));
    doc.destroy();
    assert.equal(provider.pending, 0);
  });
});
