// Sessions: what an engine records is done again by a core, and nothing else comes of it.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { saveSession, simulate } from '../src/devtools.js';
import { mask, redact } from '../src/devtools/redact.js';
import { unpack } from '../src/protocol.js';
import { MAX_BYTES, Recording, replay } from '../src/session.js';
import { encode, FakeSocket, HELLO, OP, sent, settled } from './fake-socket.js';
import { connected, makeClient } from './real-core.js';

const module = new WebAssembly.Module(readFileSync(new URL('../datasole_wasm_bg.wasm', import.meta.url)));
const vectors = new URL('../../../tests/vectors/sessions/', import.meta.url);
const OPTIONS = { url: 'ws://localhost:1/__ds', token: 'secret' };

/** The lines of a session, parsed. */
const lines = (text: string) => text.trim().split('\n').map((line) => JSON.parse(line));
const outputs = (text: string, t: string) => lines(text).filter(({ out }) => out?.t === t).map(({ out }) => out);
const bytes = (text: string) => new Uint8Array(Buffer.from(text, 'base64'));
const base64 = (message: Uint8Array) => Buffer.from(message).toString('base64');

describe('sessions of the repository', () => {
  for (const name of readdirSync(vectors).filter((name) => name.endsWith('.jsonl'))) {
    it(`${name} ends the same, bit by bit`, async () => {
      const text = readFileSync(new URL(name, vectors), 'utf8');
      assert.ok(outputs(text, 'send').length > 5);
      const done = await replay(module, text);
      // After a change of the core that is wanted: look at the difference before you keep it.
      if (process.env.DATASOLE_WRITE_VECTORS) writeFileSync(new URL(name, vectors), done);
      else assert.equal(done, text);
    });
  }

  it('show when something else comes of them', async () => {
    const text = readFileSync(new URL('cut.jsonl', vectors), 'utf8');
    const other = text.replace('"t":"message"', '"t":"timeout"');
    assert.notEqual(other, text);
    assert.notEqual(await replay(module, other), other);
  });
});

describe('a recorded client', () => {
  it('has done what its session does', async () => {
    const { client, socket } = await connected('v2', { record: true });
    const votes = client.crdt.counter('votes');
    client.subscribeState('board', () => {});
    votes.increment(3);
    assert.deepEqual(await client.rpc('echo', { long: 'x'.repeat(400) }), { long: 'x'.repeat(400) });
    simulate(client, { drop: true });
    await settled();
    client.connect();
    await settled();
    const [, second] = FakeSocket.all;
    assert.ok(second, 'it has connected again');
    const text = await saveSession(client);
    assert.deepEqual(
      outputs(text, 'send').map(({ bytes: text }) => [...bytes(text)]),
      [...socket.sent, ...second.sent].map((message) => [...message]),
    );
    assert.equal(await replay(module, text), text);
    const told = outputs(text, 'text').flatMap(({ text }): any[] => unpack(text));
    const reason = told.find(({ t, state }) => t === 'status' && state === 'reconnecting').reason;
    assert.deepEqual(reason, { kind: 'closed', message: 'simulated by datasole/devtools', code: 1006 });
  });

  it('keeps its token, and the secrets of its replicas, to itself', async () => {
    const { client } = await connected('v2', { record: true, auth: { token: 'my-token' } });
    client.crdt.counter('votes').increment();
    await settled();
    const text = await saveSession(client);
    assert.deepEqual(lines(text)[0].redacted, ['tokens']);
    const all = text + outputs(text, 'send').map((out) => Buffer.from(bytes(out.bytes)).toString('latin1'));
    assert.doesNotMatch(all, /my-token/);
    const secrets = [...(await saveSession(client, { tokens: false })).matchAll(/\\"secret\\":\\"(\w+)\\"/g)].map(([, secret]) => secret!);
    assert.ok(secrets.length);
    for (const secret of secrets) assert.ok(!all.includes(secret));
    assert.equal(await replay(module, text), text);
  });

  it('leaves payloads out when asked to, and the session still runs', async () => {
    const { client, socket } = await connected('v2', { record: true });
    client.subscribeState('board', () => {});
    client.on('news', () => {});
    await settled();
    await client.rpc('echo', { who: 'Ann', phones: ['555-1'] });
    const { correlation } = sent(socket, OP.subscribe)[0]!;
    socket.frame(OP.patch, { key: 'board', patches: [{ op: 'add', path: '/who', value: 'Ann'.repeat(200) }], epoch: 1, seq: 4 }, correlation);
    socket.frame(OP.event, { event: 'news', data: { who: 'Ann' }, timestamp: 1, epoch: 1, seq: 4 });
    await settled();
    assert.match(await saveSession(client), /Ann/);
    const text = await saveSession(client, { payloads: true });
    // The seed is random: its base64 may say anything.
    assert.doesNotMatch(text.replace(/"seed":"[^"]*"/, ''), /Ann|555/);
    const told = outputs(text, 'text').flatMap(({ text }): any[] => unpack(text));
    assert.deepEqual(told.find(({ t }) => t === 'done').value, { who: 'xxx', phones: ['xxxxx'] });
    assert.deepEqual(told.find(({ t }) => t === 'patch').ops, [{ op: 'add', path: '/who', value: 'xxx'.repeat(200) }]);
    assert.deepEqual(told.find(({ t }) => t === 'event').data, { who: 'xxx' });
    for (const { in: input } of lines(text)) if (input?.bytes) assert.doesNotMatch(Buffer.from(input.bytes, 'base64').toString(), /Ann/);
  });

  it('leaves out those of short frames, too', async () => {
    FakeSocket.serve = (socket) => {
      socket.onframe = ({ opcode, correlation, payload }) => {
        if (opcode === OP.call) socket.frame(OP.result, { who: 'Ann' }, correlation);
        if (opcode !== OP.subscribe) return;
        const { kind, key } = payload;
        socket.frame(OP.subscribed, { epoch: 1, seq: 3, recovered: false, channel: kind === 'state' ? 1 : 2 }, correlation);
        if (kind === 'state') socket.frame(OP.snapshot, { key, version: 3, data: { n: 0 }, epoch: 1, seq: 3 });
      };
      socket.accept('datasole.v2');
      socket.frame(OP.hello, { ...HELLO, features: ['batch', 'short'] });
    };
    const client = makeClient({ record: true });
    await client.connect();
    client.subscribeState('board', () => {});
    client.on('news', () => {});
    await settled();
    assert.deepEqual(await client.rpc('find', { who: 'Ann' }), { who: 'Ann' });
    const [socket] = FakeSocket.all;
    socket!.frame(OP.entry, entry([4], [{ op: 'add', path: '/who', value: 'Ann' }]), 1);
    socket!.frame(OP.entry, entry([4, 1], { who: 'Ann' }), 2);
    await settled();
    const shown = (text: string) => {
      const told = outputs(text, 'text').flatMap(({ text }): any[] => unpack(text));
      return ['done', 'patch', 'event'].map((kind) => told.find(({ t }) => t === kind)).map(({ value, ops, data }) => value ?? ops ?? data);
    };
    const patched = (value: string) => [{ op: 'add', path: '/who', value }];
    assert.deepEqual(shown(await saveSession(client)), [{ who: 'Ann' }, patched('Ann'), { who: 'Ann' }]);
    const text = await saveSession(client, { payloads: true });
    assert.deepEqual(shown(text), [{ who: 'xxx' }, patched('xxx'), { who: 'xxx' }]);
    for (const { in: input, out } of lines(text)) {
      const content = (input ?? out)?.bytes;
      if (content) assert.doesNotMatch(Buffer.from(content, 'base64').toString(), /Ann/);
    }
    assert.equal(lines(text)[0].unreadable, undefined);
  });

  it('waits as long as it did for an answer without a time-out', async () => {
    const { client, socket } = await connected('v2', { record: true, maxReconnectAttempts: Infinity });
    socket.onframe = undefined;
    const answer = client.rpc('slow', 1, { timeout: Infinity });
    await settled();
    const { correlation } = sent(socket, OP.request)[0]!;
    socket.frame(OP.response, { correlationId: correlation, result: 'late' }, correlation);
    assert.equal(await answer, 'late');
    const [head, ...inputs] = lines(await saveSession(client)).filter(({ out }) => !out);
    assert.equal(head.options.maxReconnectAttempts, Number.MAX_SAFE_INTEGER);
    const call = inputs.findIndex(({ in: { t } }) => t === 'call');
    assert.equal(inputs[call].in.timeout, Number.MAX_SAFE_INTEGER);
    // The same, but that a minute passes, in which the connection is used.
    const later = inputs.map((input, at) => (at > call ? { ...input, at: input.at + 60_000 } : input));
    const hello = inputs.find(({ in: { t } }) => t === 'message');
    const between = [10, 20, 30, 40, 50].flatMap((second) => {
      const at = inputs[call].at + second * 1_000;
      return [{ ...hello, at, in: { ...hello.in, bytes: base64(encode({ opcode: 0x08, correlation: 0, payload: null })) } }, { at, in: { t: 'timeout' } }];
    });
    const text = [head, ...later.slice(0, call + 1), ...between, ...later.slice(call + 1)].map((line) => `${JSON.stringify(line)}\n`).join('');
    const told = outputs(await replay(module, text), 'text').flatMap(({ text }): any[] => unpack(text));
    assert.deepEqual(told.filter(({ t }) => t === 'done').map(({ value }) => value), ['late']);
  });

  it('asks in vain where nothing is recorded, and where there is no core', async () => {
    const { client } = await connected('v2');
    await assert.rejects(saveSession(client), /record: true/);
    await client.disconnect();
    await assert.rejects(saveSession(client), /disconnected/);
    await assert.rejects(saveSession(makeClient()), /disconnected/);
  });
});

describe('a simulated network', () => {
  it('is gone while it is offline, and comes back', async () => {
    const { client } = await connected('v2');
    simulate(client, { offline: true });
    await settled();
    assert.equal(client.getConnectionState(), 'reconnecting');
    const connecting = client.connect();
    await settled();
    assert.equal(FakeSocket.all.length, 1, 'no socket is made');
    simulate(client, { offline: false });
    await connecting;
    assert.equal(FakeSocket.all.length, 2);
  });

  it('delays messages both ways, in order, also those that follow when it is fast again', async () => {
    const { client, socket } = await connected('v2');
    simulate(client, { latency: 600 });
    const answers: unknown[] = [];
    const begin = performance.now();
    const calls = [1, 2, 3].map((n) => client.rpc('echo', n).then((answer) => answers.push(answer)));
    await settled();
    assert.equal(sent(socket, OP.request).length, 0);
    await calls[0];
    assert.ok(performance.now() - begin >= 598);
    simulate(client, { latency: 0 });
    await Promise.all([...calls, client.rpc('echo', 4).then((answer) => answers.push(answer))]);
    assert.deepEqual(answers, [1, 2, 3, 4]);
  });
});

describe('a recording', () => {
  const input = (length: number) => ({ t: 'message', socket: 1, bytes: new Uint8Array(length - 256) }) as const;
  const head = (recording: Recording) => JSON.parse(recording.text().split('\n', 1)[0]!);

  it('is whole up to its bound, and has lost its beginning above', () => {
    const recording = new Recording('b', OPTIONS, new Uint8Array(32));
    for (let n = 0; n < 8; n++) recording.add(n, input(MAX_BYTES / 8));
    assert.deepEqual([head(recording).dropped, lines(recording.text()).length], [undefined, 9]);
    recording.add(8, { t: 'timeout' });
    assert.equal(head(recording).dropped, 2);
    const [, first, ...others] = lines(recording.text());
    assert.deepEqual([first.at, others.at(-1)], [2, { at: 8, in: { t: 'timeout' } }]);
  });
});

/** The payload of an ENTRY: numbers, which fit in a byte each, and JSON. */
const entry = (numbers: number[], json?: unknown) =>
  new Uint8Array(Buffer.concat([Buffer.from(numbers), Buffer.from(json === undefined ? '' : JSON.stringify(json))]));

/** A session in which these messages come. */
function session(messages: Uint8Array[]): string {
  const head = { session: 2, options: OPTIONS, seed: base64(new Uint8Array(32)) };
  const inputs = [{ t: 'connect' }, { t: 'opened', socket: 1, protocol: 'datasole.v2' }, ...messages.map((message) => ({ t: 'message', socket: 1, bytes: base64(message) })), { t: 'take' }];
  return [head, ...inputs.map((input) => ({ at: 1, in: input }))].map((line) => `${JSON.stringify(line)}\n`).join('');
}

/** The messages of a session, and how many of them nobody can read. */
async function redacted(messages: Uint8Array[]): Promise<{ found: Buffer[]; unreadable?: number; text: string }> {
  const text = await redact(session(messages), { payloads: true });
  const [head, ...inputs] = lines(text);
  const found = inputs.flatMap(({ in: { bytes } }) => (bytes ? [Buffer.from(bytes, 'base64')] : []));
  return { found, unreadable: head.unreadable, text };
}

describe('redaction', () => {
  it('keeps shapes and lengths', () => {
    assert.deepEqual(mask({ a: ['bc', 1.5, true, null], d: {} }), { a: ['xx', 0, false, null], d: {} });
  });

  it('reaches into batches, compressed or not, and past the JSON of binary frames', async () => {
    const event = (text: string) => encode({ opcode: OP.event, correlation: 0, payload: { event: 'e', data: text, timestamp: 1 } });
    const items = [event('Ann'), event('Ann'.repeat(200))];
    const batch = Buffer.concat(items.flatMap((item) => [Buffer.from(item.length < 128 ? [item.length] : [(item.length & 127) | 128, item.length >> 7]), item]));
    const part = Buffer.from('{"event":"e","timestamp":1}');
    const binary = Buffer.concat([Buffer.from([0, 0, 0, part.length]), part, Buffer.from('Ann')]);
    const document = Buffer.from([5, 0, 2, 3, 65, 110, 110]);
    const op = { type: 'g-set', nodeId: 'a', counter: 1, op: 'add', value: 'Ann', secret: 's' };
    const messages = [
      encode({ opcode: OP.batch, correlation: 0, payload: new Uint8Array(batch) }),
      encode({ opcode: OP.eventBinary, correlation: 0, payload: new Uint8Array(binary) }),
      encode({ opcode: OP.doc, correlation: 0, payload: new Uint8Array(document) }),
      encode({ opcode: OP.crdtOp, correlation: 0, payload: { key: 'k', op } }),
      encode({ opcode: OP.presence, correlation: 0, payload: { key: 'r', members: [{ id: 'c', value: 'Ann' }, { id: 'd' }] } }),
      encode({ opcode: OP.hello, correlation: 0, payload: { userId: 'u' } }),
    ];
    const head = { session: 2, options: OPTIONS, seed: '' };
    const file = [head, ...messages.map((message) => ({ at: 1, in: { t: 'message', socket: 1, bytes: base64(message) } }))];
    const text = await redact(file.map((line) => `${JSON.stringify(line)}\n`).join(''), { payloads: true });
    const [first, ...found] = lines(text);
    assert.equal(first.options.token, 'redacted');
    const plain = found.map(({ in: input }) => Buffer.from(input.bytes, 'base64').toString('latin1'));
    for (const message of plain) assert.doesNotMatch(message, /Ann/);
    assert.equal(plain[0]!.match(/"data":"x+"/g)!.length, 2);
    assert.match(plain[1]!, /\{"event":"e","timestamp":1\}\0\0\0$/);
    assert.deepEqual([...bytes(found[2].in.bytes).slice(9)], [5, 0, 2, 3, 0, 0, 0].map((byte, at) => (at < 4 ? byte : 0)));
    assert.match(plain[3]!, /"nodeId":"a","counter":1,"op":"add","value":"xxx"/);
    assert.match(plain[4]!, /"members":\[\{"id":"c","value":"xxx"\},\{"id":"d"\}\]/);
    assert.match(plain[5]!, /"userId":"u"/);
  });

  it('reads short frames by their layouts', async () => {
    const frame = (opcode: number, payload: Uint8Array) => encode({ opcode, correlation: 7, payload });
    const patch = [{ op: 'add', path: '/who', value: 'Ann' }, { op: 'remove', path: '/n' }];
    const call = Buffer.concat([Buffer.from([4]), Buffer.from('find'), Buffer.from('["Ann"]')]);
    // Of a time that begins as a list does.
    const early = [{ op: 'Ann' }];
    const time = [0x80, 0xe8, 0xde, 0x82, 0xad, 0x33];
    const { found, unreadable } = await redacted([
      frame(OP.entry, entry([0xac, 0x02], patch)),
      frame(OP.entry, entry([0xac, 0x02, ...time], { who: 'Ann' })),
      frame(OP.entry, entry([5, ...time])),
      frame(OP.entry, entry([5, 0x5b], early)),
      frame(OP.call, new Uint8Array(call)),
      frame(OP.result, entry([], 'Ann')),
      frame(OP.result, entry([])),
      frame(0x61, entry([0, 0, 0, 0], 'Ann')),
      frame(0x33, entry([], 'Ann')),
      frame(0x24, entry([0, 0, 0, 0], 'Ann')),
    ]);
    assert.equal(unreadable, undefined);
    const expected = [
      entry([0xac, 0x02], [{ op: 'add', path: '/who', value: 'xxx' }, { op: 'remove', path: '/n' }]),
      entry([0xac, 0x02, ...time], { who: 'xxx' }),
      entry([5, ...time]),
      entry([5, 0x5b], [{ op: 'xxx' }]),
      new Uint8Array(Buffer.concat([Buffer.from([4]), Buffer.from('find'), Buffer.from('["xxx"]')])),
      entry([], 'xxx'),
      entry([]),
      new Uint8Array(9),
      new Uint8Array(5),
      new Uint8Array(9),
    ];
    assert.deepEqual(found.map((message) => [...message.subarray(9)]), expected.map((payload) => [...payload]));
    assert.deepEqual([...found[0]!.subarray(0, 9)], [0x30, 0, 0, 0, 7, 0, 0, 0, found[0]!.length - 9]);
  });

  it('keeps the amounts of counters, and no other number', async () => {
    const frame = (type: string, value: unknown) =>
      encode({ opcode: OP.crdtOp, correlation: 0, payload: { key: 'k', op: { type, nodeId: 'a', counter: 1, op: 'set', value } } });
    const { found } = await redacted([frame('g-counter', 5), frame('pn-counter', 5), frame('lww-register', 5), frame('or-set', 5), frame('g-counter', 'Ann')]);
    assert.deepEqual(found.map((message) => JSON.parse(message.subarray(9).toString()).op.value), [5, 5, 0, 0, 'xxx']);
    const edit = (type: string) => ({ at: 1, in: { t: 'edit', kind: 'crdt', key: 'k', id: 1, json: JSON.stringify({ type, op: 'set', value: 5 }) } });
    const file = [{ session: 2, options: OPTIONS, seed: '' }, edit('g-counter'), edit('lww-map')];
    const text = await redact(file.map((line) => `${JSON.stringify(line)}\n`).join(''), { payloads: true });
    assert.deepEqual(lines(text).slice(1).map(({ in: { json } }) => JSON.parse(json).value), [5, 0]);
  });

  it('takes messages that nobody can read, which fail as they did', async () => {
    const raw = (opcode: number, payload: string | Uint8Array) =>
      encode({ opcode, correlation: 0, payload: new Uint8Array(Buffer.from(payload as string)) });
    const whole = raw(OP.event, '{"event":"Ann"}');
    const messages: Record<string, Uint8Array> = {
      'broken zlib': Uint8Array.of(0x78, 0x9c, 65, 110, 110),
      'cut off': whole.subarray(0, 15),
      'no JSON': raw(OP.event, '{"event":"e","data":"Ann'),
      'null': raw(OP.response, 'null'),
      'another shape': raw(OP.event, '["Ann"]'),
      'patches that are none': raw(OP.patch, '{"key":"k","patches":7}'),
      'a length beyond the end': raw(OP.eventBinary, Uint8Array.of(0, 0, 0, 9, 65, 110, 110)),
      'a length that is cut off': raw(OP.eventBinary, Uint8Array.of(0, 0)),
      'an item that is cut off': raw(OP.batch, Uint8Array.of(9, 65, 110, 110)),
      'a broken item': raw(OP.batch, new Uint8Array([14, ...raw(OP.event, '"Ann')])),
      'a number that is cut off': raw(OP.entry, Uint8Array.of(0x80)),
      'a name that is cut off': raw(OP.call, Uint8Array.of(9, 65, 110, 110)),
      'a result that is none': raw(OP.result, '"Ann'),
    };
    const hello = encode({ opcode: OP.hello, correlation: 0, payload: { ...HELLO, features: ['batch', 'short'] } });
    /** The effects on the connection. */
    const effects = async (text: string) =>
      lines(await replay(module, text)).flatMap(({ out }) => (out && !/^(text|take|soon|arm)$/.test(out.t) ? [[out.t, out.code]] : []));
    for (const [what, message] of Object.entries(messages)) {
      const { found, unreadable, text } = await redacted([hello, message]);
      assert.equal(unreadable, 1, what);
      assert.equal(found[1]!.length, message.length, what);
      assert.doesNotMatch(found[1]!.toString('latin1'), /Ann/, what);
      assert.deepEqual(await effects(text), await effects(session([hello, message])), what);
    }
    const { unreadable } = await redacted([hello, ...Object.values(messages)]);
    assert.equal(unreadable, Object.keys(messages).length);
  });
});
