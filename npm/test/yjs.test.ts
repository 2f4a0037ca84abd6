// The provider for Yjs documents on the real wasm core, in-thread, with a server made of the test's own Y.Doc.
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import * as awarenessProtocol from 'y-protocols/awareness';
import * as Y from 'yjs';
import { DatasoleClient } from '../src/client.js';
import { ErrorCode } from '../src/errors.js';
import { DatasoleProvider, type DatasoleProviderOptions } from '../src/yjs.js';
import { collector } from './collector.js';
import { FakeSocket, HELLO, OP, settled, type Frame } from './fake-socket.js';

const wasmUrl = fileURLToPath(new URL('../../../npm/generated/datasole_wasm_bg.wasm', import.meta.url));
const CHANNEL = 7;

const varuint = (n: number): number[] => (n < 128 ? [n] : [(n % 128) | 128, ...varuint(Math.floor(n / 128))]);
/** A message as other implementations of the protocol write it. */
const message = (head: number[], content: Uint8Array) => [...head, ...varuint(content.length), ...content];

/** What follows the head and the length. */
function content(message: Uint8Array, head: number): Uint8Array {
  let at = head;
  while (message[at]! > 127) at++;
  return message.subarray(at + 1);
}

/** What the server does with an update: acknowledges, refuses, or nothing. */
type Answer = undefined | null | { code: number; retryAfter?: number };

let seq = 0;
let server: Y.Doc;
/** Who has the document open, and the messages that came of them. */
let members: Map<FakeSocket, Uint8Array[]>;
let answer: (step: number) => Answer;
/** The same by what is in the update. */
let judge: (update: Uint8Array) => Answer;
/** Answers that are owed. */
let owed: (() => void)[];
let ends: (() => void)[];

beforeEach(() => {
  [server, members, answer, owed, ends] = [new Y.Doc(), new Map(), () => undefined, [], []];
  judge = () => undefined;
  FakeSocket.all = [];
  FakeSocket.serve = serve;
  (globalThis as any).WebSocket = FakeSocket;
});

afterEach(() => {
  for (const end of ends) end();
});

function serve(socket: FakeSocket): void {
  socket.onframe = (frame) => receive(socket, frame);
  socket.accept('datasole.v2');
  socket.frame(OP.hello, HELLO);
}

function receive(socket: FakeSocket, { opcode, correlation, payload }: Frame): void {
  if (opcode === OP.unsubscribe) members.delete(socket);
  if (opcode === OP.subscribe && payload.key === 'k') {
    members.set(socket, members.get(socket) ?? []);
    socket.frame(OP.subscribed, { epoch: 1, seq, recovered: false, channel: CHANNEL }, correlation);
    tell(socket, [0, 0], Y.encodeStateVector(server));
  }
  if (opcode !== OP.doc || !members.has(socket)) return;
  const said = (payload as Uint8Array).subarray(1);
  members.get(socket)!.push(said);
  const [kind, step] = said;
  if (kind === 1) {
    for (const other of members.keys()) if (other !== socket) tell(other, [1], content(said, 1));
  } else if (step === 0) {
    tell(socket, [0, 1], Y.encodeStateAsUpdate(server, content(said, 2)));
  } else {
    const outcome = judge(content(said, 2)) || answer(step!);
    if (outcome) return socket.frame(OP.error, { message: 'no', ...outcome }, correlation);
    const take = () => {
      const update = content(said, 2);
      Y.applyUpdate(server, update);
      seq++;
      socket.frame(OP.ack, Uint8Array.from(varuint(seq)), correlation);
      for (const other of members.keys()) if (other !== socket) tell(other, [0, 2], update, seq);
    };
    if (outcome === null) owed.push(take);
    else take();
  }
}

function tell(socket: FakeSocket, head: number[], bytes: Uint8Array, at = 0): void {
  socket.frame(OP.doc, Uint8Array.from([...varuint(at), ...message(head, bytes)]), CHANNEL);
}

const text = (doc: Y.Doc) => doc.getText('t').toString();
const type = (doc: Y.Doc, letters: string) => doc.getText('t').insert(doc.getText('t').length, letters);
const typed = () => text(server);

/** Waits for what comes of timers, too. */
async function until(holds: () => boolean): Promise<void> {
  const end = Date.now() + 5_000;
  while (!holds()) {
    assert.ok(Date.now() < end, `in time: ${holds}`);
    await settled();
  }
}

/** A user with a client and one provider. */
class User {
  readonly client = new DatasoleClient({ url: 'http://localhost:1', wasmUrl, reconnectInterval: 1 });
  readonly provider: DatasoleProvider;
  readonly errors: any[] = [];
  socket!: FakeSocket;

  constructor(
    options?: DatasoleProviderOptions,
    readonly doc = new Y.Doc(),
  ) {
    this.provider = this.provide(doc, options);
    this.provider.on('error', (error) => this.errors.push(error));
    ends.push(() => void this.client.disconnect());
  }

  /** One more provider. */
  provide(doc: Y.Doc, options: DatasoleProviderOptions = { awarenessThrottle: 0 }): DatasoleProvider {
    const provider = new DatasoleProvider(this.client, 'k', doc, options);
    ends.push(() => provider.destroy());
    return provider;
  }

  async connect(): Promise<this> {
    await this.client.connect();
    this.socket = FakeSocket.all.at(-1)!;
    await settled();
    return this;
  }

  /** Until the next connection, which has to be let in. */
  async lose(): Promise<() => Promise<void>> {
    let admit!: () => void;
    FakeSocket.serve = (socket) => (admit = () => serve(socket));
    members.delete(this.socket);
    // Gone, with the next clock.
    const clock = this.provider.awareness.meta.get(this.doc.clientID)!.clock + 1;
    const gone = Uint8Array.from([1, ...varuint(this.doc.clientID), ...varuint(clock), 4, ...Buffer.from('null')]);
    for (const other of members.keys()) tell(other, [1], gone);
    this.socket.drop();
    while (!admit) await settled();
    FakeSocket.serve = serve;
    return async () => {
      admit();
      this.socket = FakeSocket.all.at(-1)!;
      await settled();
      await settled();
    };
  }

  /** The updates it has sent. */
  get updates(): number[][] {
    return (members.get(this.socket) ?? []).filter(([kind, step]) => kind === 0 && step === 2).map((said) => [...said]);
  }
}

/** One after the other, so that each knows its socket. */
async function connected(...users: User[]): Promise<User[]> {
  for (const user of users) await user.connect();
  return users;
}

describe('DatasoleProvider', () => {
  it('brings documents together, with what was there before and without a connection', async () => {
    const [a, b] = [new User(), new User()];
    type(a.doc, 'a');
    assert.deepEqual([a.provider.pending, a.provider.synced], [1, false]);
    await connected(a);
    await connected(b);
    assert.deepEqual([text(a.doc), text(b.doc), a.provider.pending, a.provider.synced], ['a', 'a', 0, true]);
    const back = await a.lose();
    assert.equal(a.provider.synced, false);
    for (const letter of 'xyz') type(a.doc, letter);
    type(b.doc, 'b');
    await settled();
    assert.equal(a.provider.pending, 3);
    await back();
    assert.deepEqual([text(a.doc), a.provider.pending, a.provider.synced], [text(b.doc), 0, true]);
    assert.equal([...text(a.doc)].sort().join(''), 'abxyz');
    assert.deepEqual([...a.errors, ...b.errors], []);
  });

  it('adds little to a single character', async () => {
    const [user] = await connected(new User());
    const updates: Uint8Array[] = [];
    user!.doc.on('update', (update: Uint8Array) => updates.push(update));
    for (const letter of 'hello') type(user!.doc, letter);
    await settled();
    assert.equal(user!.updates.length, 5);
    // Header and channel.
    user!.updates.forEach((said, at) => assert.ok(9 + 1 + said.length <= 1.3 * (9 + updates[at]!.length)));
  });

  it('lets undo take back only own edits', async () => {
    const [a, b] = await connected(new User(), new User());
    const undo = new Y.UndoManager(a!.doc.getText('t'));
    type(a!.doc, 'mine');
    await settled();
    type(b!.doc, 'theirs');
    await settled();
    undo.undo();
    await settled();
    assert.deepEqual([text(a!.doc), text(b!.doc)], ['theirs', 'theirs']);
  });

  it('has at most 32 updates under way, and the rest in few', async () => {
    const [user] = await connected(new User());
    answer = () => null;
    const pending: number[] = [];
    user!.provider.on('pending', (count) => pending.push(count));
    for (let count = 0; count < 100; count++) type(user!.doc, 'x');
    await settled();
    assert.deepEqual([user!.updates.length, user!.provider.pending], [32, 100]);
    answer = () => undefined;
    for (const take of owed.splice(0)) take();
    await settled();
    assert.ok(user!.updates.length <= 40, `${user!.updates.length}`);
    assert.deepEqual([user!.provider.pending, typed().length, pending.at(-1)], [0, 100, 0]);
  });

  it('tells what was refused', async () => {
    answer = () => ({ code: ErrorCode.Forbidden });
    server.getText('t').insert(0, 'abc');
    server.getText('t').delete(0, 1);
    const [user] = await connected(new User());
    assert.deepEqual([user!.errors, text(user!.doc)], [[], 'bc'], 'a reader has nothing to say');
    type(user!.doc, 'x');
    await settled();
    assert.deepEqual(user!.errors.map(({ code }) => code), [ErrorCode.Forbidden]);
    assert.equal(user!.provider.pending, 1, 'it is not stored');
  });

  for (const [what, code, undo] of [
    ['too long for a frame, then deleted', ErrorCode.TooLarge, (doc: Y.Doc) => doc.getText('t').delete(1, 2 ** 21)],
    ['too long for a frame, then undone', ErrorCode.TooLarge, (_: Y.Doc, undo: Y.UndoManager) => undo.undo()],
    ['over the limit of the document', ErrorCode.Limit, (doc: Y.Doc) => doc.getText('t').delete(1, 2 ** 21)],
    ['a document inside', ErrorCode.InvalidParams, (doc: Y.Doc) => doc.getMap('m').delete('inside')],
  ] as const) {
    it(`stores what is typed after a refusal, told once: ${what}`, async () => {
      const [user, watcher] = await connected(new User(), new User());
      const { doc, provider, errors } = user!;
      type(doc, 'a');
      await settled();
      const manager = new Y.UndoManager(doc.getText('t'));
      // Content of the kind 9, a document: not gone yet.
      const inside = (update: Uint8Array) => Y.decodeUpdate(update).structs.some((struct: any) => struct.content instanceof Y.ContentDoc);
      judge = (update) => (update.length > 10_000 || inside(update) ? { code } : undefined);
      if (code === ErrorCode.InvalidParams) doc.getMap('m').set('inside', new Y.Doc());
      else type(doc, 'x'.repeat(code === ErrorCode.Limit ? 20_000 : 2 ** 21));
      await until(() => errors.length > 0);
      assert.ok(provider.pending > 0);
      type(doc, 'b');
      assert.ok(provider.pending > 0, 'what waits is not saved');
      undo(doc, manager);
      type(doc, 'c');
      await until(() => !provider.pending);
      assert.deepEqual([text(watcher!.doc), typed()], [text(doc), text(doc)]);
      assert.ok(/^ab?c$/.test(typed()), typed());
      assert.deepEqual([errors.map((error) => error.code), provider.synced], [[code], true]);
    });
  }

  it('stores own edits beside an update whose predecessor is missing, and what waited for it', async () => {
    const author = new Y.Doc();
    const updates: Uint8Array[] = [];
    author.on('update', (update: Uint8Array) => updates.push(update));
    type(author, 'first');
    type(author, ' second');
    const doc = new Y.Doc();
    Y.applyUpdate(doc, updates[1]!);
    type(doc, 'own');
    // A server that refuses what it cannot place.
    judge = (update) => {
      const copy = new Y.Doc();
      Y.applyUpdate(copy, Y.encodeStateAsUpdate(server));
      Y.applyUpdate(copy, update);
      return copy.store.pendingStructs || copy.store.pendingDs ? { code: ErrorCode.InvalidParams } : undefined;
    };
    const [user] = await connected(new User(undefined, doc));
    await until(() => !user!.provider.pending && user!.provider.synced);
    assert.deepEqual([typed(), user!.errors], ['own', []]);
    assert.ok(doc.store.pendingStructs, 'it waits here');
    // The missing part comes from another, who lacks the rest.
    const [other] = await connected(new User());
    Y.applyUpdate(other!.doc, updates[0]!);
    await until(() => doc.store.clients.has(author.clientID));
    await until(() => !user!.provider.pending && !other!.provider.pending);
    await settled();
    assert.equal(doc.store.pendingStructs, null);
    assert.deepEqual([typed(), text(other!.doc)], [text(doc), text(doc)]);
    assert.ok(typed().includes('second'));
  });

  it('shows the cursor of the next provider of the same document at once', async () => {
    const [watcher] = await connected(new User());
    const doc = new Y.Doc();
    const user = new User({ awarenessThrottle: 0 }, doc);
    await connected(user);
    const shown = () => watcher!.provider.awareness.getStates().get(doc.clientID)?.cursor;
    for (let at = 0; at < 10; at++) user.provider.awareness.setLocalStateField('cursor', at);
    await settled();
    assert.equal(shown(), 9);
    for (let round = 0; round < 3; round++) {
      (round ? next! : user.provider).destroy();
      await settled();
      assert.equal(shown(), undefined);
      var next: DatasoleProvider | undefined = user.provide(doc);
      next.awareness.setLocalStateField('cursor', `again ${round}`);
      await settled();
      assert.equal(shown(), `again ${round}`);
    }
  });

  it('sends everything again after a limit', async () => {
    const [user] = await connected(new User());
    answer = (step) => (step === 2 ? { code: ErrorCode.Limit, retryAfter: 1 } : undefined);
    type(user!.doc, 'x');
    type(user!.doc, 'y');
    while (user!.provider.pending) await settled();
    assert.deepEqual([typed(), user!.errors], ['xy', []]);
  });

  it('tells what makes no sense, and goes on', async () => {
    const [user] = await connected(new User());
    tell(user!.socket, [0, 2], Uint8Array.of(255), ++seq);
    tell(user!.socket, [1], Uint8Array.of(9));
    await settled();
    assert.equal(user!.errors.length, 2);
    type(user!.doc, 'x');
    while (user!.provider.pending) await settled();
    assert.deepEqual([text(user!.doc), typed()], ['x', 'x']);
  });

  it('answers a state vector that makes no sense with nothing, and compares anew', async () => {
    const [user] = await connected(new User());
    type(user!.doc, 'x');
    await settled();
    answer = (step) => (step === 1 ? { code: ErrorCode.InvalidParams } : undefined);
    tell(user!.socket, [0, 0], Uint8Array.of(255));
    await settled();
    assert.deepEqual([[...members.get(user!.socket)!.at(-1)!], user!.errors.length], [[0, 1, 0], 1]);
    answer = () => undefined;
    type(user!.doc, 'y');
    while (user!.provider.pending) await settled();
    assert.deepEqual([typed(), user!.provider.synced, user!.errors.length], ['xy', true, 1]);
  });

  it('shows cursors to others, again after a reconnect, and not after it has ended', async () => {
    const [a, b] = await connected(new User(), new User());
    const names = () => [...b!.provider.awareness.getStates().values()].map(({ user }) => user).filter(Boolean);
    a!.provider.awareness.setLocalStateField('user', 'ann');
    await settled();
    assert.deepEqual(names(), ['ann']);
    const back = await b!.lose();
    assert.deepEqual(names(), []);
    await back();
    const again = await a!.lose();
    assert.deepEqual(names(), []);
    await again();
    assert.deepEqual(names(), ['ann']);
    a!.provider.destroy();
    await settled();
    assert.deepEqual([names(), members.has(a!.socket)], [[], false]);
    type(a!.doc, 'unheard');
    await settled();
    assert.equal(text(b!.doc), '');
  });

  it('announces the last of many cursors', async () => {
    const [a, b] = await connected(new User({ awarenessThrottle: 5 }), new User());
    const before = members.get(a!.socket)!.length;
    for (let at = 0; at < 100; at++) a!.provider.awareness.setLocalStateField('cursor', at);
    const cursor = () => b!.provider.awareness.getStates().get(a!.doc.clientID)?.cursor;
    while (cursor() !== 99) await settled();
    assert.ok(members.get(a!.socket)!.length - before <= 3);
  });

  it('leaves once the server has what was typed before, and hears nothing meanwhile', async () => {
    const [a, b, c] = [new User(), new User(), new User()];
    await connected(a, c);
    type(b.doc, 'b');
    b.provider.destroy();
    type(b.doc, ' unheard');
    answer = () => null;
    for (let count = 0; count < 40; count++) type(a.doc, 'a');
    a.provider.destroy();
    await settled();
    assert.deepEqual([a.provider.pending, b.provider.pending, members.has(a.socket)], [40, 1, true]);
    answer = () => undefined;
    for (const take of owed.splice(0)) take();
    await connected(b);
    type(c.doc, 'c');
    await settled();
    assert.equal([...typed()].sort().join(''), `${'a'.repeat(40)}bc`);
    assert.deepEqual([text(a.doc).length, text(b.doc), a.provider.pending, b.provider.pending], [40, 'b unheard', 0, 0]);
    assert.deepEqual([...members.keys()], [c.socket]);
  });

  it('keeps what was not stored when the core is replaced', async () => {
    const [user] = await connected(new User());
    answer = () => null;
    type(user!.doc, 'x');
    await settled();
    await user!.client.disconnect();
    assert.deepEqual([user!.provider.pending, user!.provider.synced], [1, false]);
    type(user!.doc, 'y');
    answer = () => undefined;
    await connected(user!);
    assert.deepEqual([typed(), user!.provider.pending, user!.provider.synced], ['xy', 0, true]);
  });

  it('stores what is left of a refused edit when the core is replaced before it is compared again', async () => {
    const [user] = await connected(new User());
    const { client, doc, provider, errors } = user!;
    const manager = new Y.UndoManager(doc.getText('t'));
    judge = (update) => (update.length > 10_000 ? { code: ErrorCode.TooLarge } : undefined);
    type(doc, 'x'.repeat(20_000));
    await until(() => errors.length > 0);
    manager.undo();
    await client.disconnect();
    await connected(user!);
    await until(() => !provider.pending);
    type(doc, 'y');
    await until(() => !provider.pending);
    assert.deepEqual([typed(), errors.map(({ code }) => code), provider.synced], ['y', [ErrorCode.TooLarge], true]);
  });

  it('takes an awareness that is there, and leaves it', () => {
    const doc = new Y.Doc();
    const awareness = new awarenessProtocol.Awareness(doc);
    const { provider } = new User({ awareness }, doc);
    assert.equal(provider.awareness, awareness);
    doc.destroy();
    assert.equal(provider.pending, 0);
    awareness.destroy();
  });
});

describe('several providers of one client and key', () => {
  it('have one subscription, and step in for each other', async () => {
    const user = new User({ awarenessThrottle: 0 });
    type(user.doc, 'a');
    const second = user.provide(new Y.Doc());
    const third = user.provide(second.doc);
    assert.deepEqual([text(second.doc), third.pending], ['a', 1]);
    const other = new DatasoleProvider(user.client, 'other', new Y.Doc());
    ends.push(() => other.destroy());
    const [watcher] = await connected(new User(), user);
    assert.equal(user.socket.frames().filter(({ opcode, payload }) => opcode === OP.subscribe && payload.key === 'k').length, 1);
    const names = (provider: DatasoleProvider) => [...provider.awareness.getStates().values()].map(({ user }) => user).filter(Boolean);
    user.provider.awareness.setLocalStateField('user', 'ann');
    second.awareness.setLocalStateField('user', 'ann, again');
    type(user.doc, 'b');
    type(second.doc, 'c');
    await settled();
    assert.deepEqual([text(user.doc), text(second.doc), typed(), text(watcher!.doc)], ['abc', 'abc', 'abc', 'abc']);
    assert.deepEqual([names(user.provider).length, names(watcher!.provider).length], [2, 2]);
    assert.equal(text(other.doc), '');
    type(watcher!.doc, 'd');
    await settled();
    assert.deepEqual([text(user.doc), text(second.doc), third.synced, third.pending], ['abcd', 'abcd', true, 0]);
    user.provider.destroy();
    await settled();
    assert.deepEqual(names(watcher!.provider), ['ann, again']);
    const back = await user.lose();
    type(user.doc, ' unheard');
    type(second.doc, 'e');
    await back();
    assert.deepEqual([typed(), text(watcher!.doc), text(user.doc)], ['abcde', 'abcde', 'abcd unheard']);
    second.destroy();
    type(third.doc, 'f');
    await settled();
    assert.deepEqual([typed(), members.has(user.socket)], ['abcdef', true]);
    third.destroy();
    other.destroy();
    await settled();
    assert.equal(members.has(user.socket), false);
  });

  it('bring in what they had before', async () => {
    const user = new User();
    type(user.doc, 'a');
    const doc = new Y.Doc();
    type(doc, 'b');
    const second = user.provide(doc);
    assert.equal(second.pending, 2);
    await connected(user);
    assert.deepEqual([[...typed()].sort().join(''), text(user.doc), text(doc)], ['ab', typed(), typed()]);
    assert.equal(second.pending, 0);
  });

  it('take over what one that has left was still to send', async () => {
    const user = new User();
    type(user.doc, 'a');
    user.provider.destroy();
    const doc = new Y.Doc();
    type(doc, 'b');
    const second = user.provide(doc);
    assert.equal(second.pending, 2);
    await connected(user);
    type(doc, 'c');
    await settled();
    assert.deepEqual([[...typed()].sort().join(''), text(doc), text(user.doc)], ['abc', typed(), 'a']);
    assert.equal(second.pending, 0);
  });

  it('open a document again that is only left once everything is stored', async () => {
    const [user] = await connected(new User());
    answer = () => null;
    type(user!.doc, 'a');
    user!.provider.destroy();
    await settled();
    const second = user!.provide(new Y.Doc());
    answer = () => undefined;
    for (const take of owed.splice(0)) take();
    await settled();
    type(second.doc, 'b');
    await settled();
    assert.deepEqual([typed(), text(second.doc), second.pending, members.has(user!.socket)], ['ab', 'ab', 0, true]);
  });
});

describe('providers of many documents', () => {
  it('leave nothing behind', async () => {
    const [user] = await connected(new User());
    const collect = collector();
    const visit = async (round: number) => {
      for (let at = 0; at < 5_000; at++) {
        new DatasoleProvider(user!.client, `name ${round} ${at}`, new Y.Doc()).destroy();
        if (at % 50 === 49) await settled();
        user!.socket.sent.length = 0;
      }
    };
    await visit(0);
    const before = await collect();
    await visit(1);
    const grown = (await collect()) - before;
    assert.ok(grown < 5_000 * 40, `${grown / 5_000} bytes stay of each`);
  });
});
