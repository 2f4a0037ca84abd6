// The CRDTs, held to what the Rust crate does.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { before, it } from 'node:test';
import { canonical } from '../src/canonical.js';
import { GCounter, GSet, LWWMap, LWWRegister, ORSet, PNCounter, type Crdt, type CrdtOperation } from '../src/crdt/index.js';
import { ErrorCode } from '../src/errors.js';
import { Replica } from '../src/crdt/replica.js';
import type { StreamMessage, ToWorker } from '../src/protocol.js';
import { Streams } from '../src/streams.js';

const root = new URL('../../../', import.meta.url);
const CLASSES: Record<string, new (nodeId: string) => Crdt> = {
  'g-counter': GCounter,
  'pn-counter': PNCounter,
  'lww-register': LWWRegister,
  'lww-map': LWWMap,
  'g-set': GSet,
  'or-set': ORSet,
};

before(() => {
  // Refusals are reported.
  globalThis.reportError = () => {};
});

/** A CRDT in a state, given as text. */
function make(kind: string, state?: string): Crdt {
  const crdt = new CLASSES[kind]!('test');
  if (state) assert.ok(crdt.replace(JSON.parse(state)), state);
  return crdt;
}

/** As JSON, without members that are undefined. */
const text = (crdt: Crdt) => canonical(JSON.parse(JSON.stringify(crdt.state())));

const check: Record<string, (one: any) => void | Promise<void>> = {
  canonical({ value, text }) {
    assert.equal(canonical(value), text);
  },
  operations({ kind, ops, value, state }) {
    const crdt = make(kind);
    for (const op of ops) crdt.apply(op);
    assert.equal(text(crdt), state);
    assert.equal(canonical(crdt.value() ?? null), canonical(value));
  },
  merge({ kind, a, b, state }) {
    for (const [one, other] of [[a, b], [b, a]]) {
      const crdt = make(kind, one);
      assert.equal(text(crdt), one);
      assert.ok(crdt.merge(JSON.parse(other)));
      assert.equal(text(crdt), state);
      assert.ok(crdt.merge(JSON.parse(other)));
      assert.equal(text(crdt), state);
    }
  },
  adopt({ kind, state, v1, adopted }) {
    const crdt = make(kind, state);
    crdt.replace(v1);
    assert.equal(text(crdt), adopted);
  },
  refused({ kind, state, op }) {
    const crdt = make(kind, state);
    assert.equal(crdt.apply(op), false);
    assert.equal(text(crdt), state);
  },
  replica: replay,
};

it('agrees with Rust on the committed cases', async () => {
  const cases = JSON.parse(readFileSync(new URL('tests/vectors/crdt.json', root), 'utf8'));
  for (const [number, one] of cases.entries()) await run(one, number);
});

it('agrees with Rust on generated cases', async () => {
  const file = process.env.CRDT_CASES;
  const cargo = 'run -q -p datasole-core --example crdt_cases -- --seed 2011 --count 10000';
  const lines = file
    ? readFileSync(file, 'utf8')
    : execFileSync('cargo', cargo.split(' '), { cwd: root, encoding: 'utf8', maxBuffer: 1 << 30 });
  const cases = lines.split('\n').filter(Boolean).map((line) => JSON.parse(line));
  assert.ok(cases.length >= 10_000, `${cases.length} cases`);
  for (const [number, one] of cases.entries()) await run(one, number);
});

/** A replica whose core, server and storage are the case. */
async function replay({ kind, node, steps }: any): Promise<void> {
  let now = 0;
  let saved: string | undefined;
  const storage = { load: () => saved, save: (_: string, text?: string) => void (saved = text) };
  /** What the core has: edits without an acknowledgement, and those that have not come back. */
  let outbox: { id: number; op: CrdtOperation }[] = [];
  let arriving: typeof outbox = [];
  let streams!: Streams;
  let confirmed!: Crdt;
  const crdt = new CLASSES[kind]!(node);
  const inOrder = () => outbox.sort((a, b) => a.op.counter - b.op.counter);
  const open = () => {
    [outbox, arriving] = [[], []];
    streams = new Streams((message: ToWorker) => {
      assert.notEqual(message.t, 'unfit');
      if (message.t !== 'edit') return;
      // The server keeps the secret to itself.
      const { secret, ...op } = JSON.parse(message.json!);
      assert.equal(secret, 'secret');
      outbox.push({ id: message.id, op });
    });
    confirmed = new CLASSES[kind]!(node);
    crdt.copy(confirmed);
    // The same object after a restart, too: Rust saves which numbers have been given away; here every page has its own name.
    const made = [crdt, confirmed];
    return new Replica(() => made.shift()!, { key: 'k', streams, now: () => now, storage, secret: 'secret', tell() {} });
  };
  let replica = open();
  const receive = (message: object) => {
    streams.receive({ kind: 'crdt', key: 'k', rev: 0, ...message } as StreamMessage, []);
    const unknown = ({ op }: { op: CrdtOperation }) => !confirmed.knows(op);
    [outbox, arriving] = [outbox.filter(unknown), arriving.filter(unknown)];
  };
  const ids = new Map<number, number>();
  const answered = (counter: number, refused: boolean, none: boolean) => {
    const index = outbox.findIndex(({ op }) => op.counter === counter);
    const [edit] = index < 0 ? [] : outbox.splice(index, 1);
    if (none) return;
    const outcome = refused ? { error: { code: ErrorCode.InvalidParams, message: '', retryable: false } } : { returns: true };
    streams.receive({ t: 'settled', kind: 'crdt', key: 'k', id: ids.get(counter)!, ...outcome }, []);
    if (!edit) return;
    const { type, nodeId, done, timestamp, logical } = edit.op;
    if (refused) outbox.splice(index, 0, { ...edit, op: { type, nodeId, counter, done, timestamp, logical, op: 'none' } });
    else arriving.push(edit);
  };
  for (const step of steps) {
    if (step.restart) {
      replica = open();
      for (let turn = 0; turn < 4; turn++) await null;
      inOrder();
    }
    if (step.edit) {
      now = step.now;
      if (step.error) assert.throws(() => edit(crdt, step.edit));
      else if (step.op) assert.equal(canonical(edit(crdt, step.edit)), canonical(step.op));
    }
    for (const { id, op } of outbox) ids.set(op.counter, id);
    for (const op of step.ops ?? []) {
      const at = outbox.findIndex(({ op: { counter } }) => counter === op.counter);
      assert.ok(at >= 0 && at < step.send);
      const written = { ...outbox[at]!.op, done: outbox[0]!.op.counter - 1 || undefined };
      assert.equal(canonical(JSON.parse(JSON.stringify(written))), canonical(op));
    }
    if (step.acked) answered(step.acked, false, !!step.none);
    if (step.refused) answered(step.refused, true, !!step.none);
    if (step.detached) {
      outbox.push(...arriving.splice(0));
      inOrder();
    }
    if (step.remote) receive({ t: 'entry', data: step.remote });
    if (step.snapshot !== undefined) receive({ t: 'entry', data: step.snapshot, whole: true });
    for (let turn = 0; turn < 4; turn++) await null;
    assert.equal(text(crdt), step.state, JSON.stringify({ ...step, state: '' }));
    assert.equal(replica.pending, step.pending);
  }
}

function edit(crdt: Crdt, { op, key, value }: any): unknown {
  const any = crdt as any;
  if (op === 'increment' || op === 'decrement') return any[op](value);
  if (op === 'add') return any.add(value);
  if (op === 'remove') return any.delete(key ?? value);
  return key === undefined ? any.set(value) : any.set(key, value);
}

async function run(one: any, number: number): Promise<void> {
  try {
    await check[one.case]!(one);
  } catch (error) {
    console.error(`case ${number}: ${one.case} ${one.kind}`);
    throw error;
  }
}
