// The CRDTs, held to what the Rust crate does.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { before, it } from 'node:test';
import type { ChannelHandlers } from '../src/channel.js';
import { canonical } from '../src/crdt/json.js';
import { GCounter, GSet, LWWMap, LWWRegister, ORSet, PNCounter, type Crdt } from '../src/crdt/index.js';
import { Replica, type ReplicaHost } from '../src/crdt/replica.js';
import { DatasoleError, ErrorCode } from '../src/errors.js';

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
  const cargo = 'run -q -p datasole-core --example crdt_cases -- --seed 2011 --count 3000';
  const lines = file
    ? readFileSync(file, 'utf8')
    : execFileSync('cargo', cargo.split(' '), { cwd: root, encoding: 'utf8', maxBuffer: 1 << 30 });
  const cases = lines.split('\n').filter(Boolean).map((line) => JSON.parse(line));
  assert.ok(cases.length >= 3_000, `${cases.length} cases`);
  for (const [number, one] of cases.entries()) await run(one, number);
});

/** A replica whose server is the case. What is sent, and when, is this side's own business. */
async function replay({ kind, node, steps }: any): Promise<void> {
  const under = new Map<number, { resolve(): void; reject(error: unknown): void }>();
  let handlers!: ChannelHandlers;
  let now = 0;
  let idle = false;
  const host: ReplicaHost = {
    open: (_, own) => {
      handlers = own;
      const submit = (op: any) =>
        new Promise<void>((resolve, reject) => under.set(op.counter, { resolve, reject }));
      return { submit, notify() {}, close() {} };
    },
    now: () => now,
    plain: () => false,
  };
  const [crdt, confirmed] = [new CLASSES[kind]!(node), new CLASSES[kind]!(node)];
  const replica = new Replica('k', crdt, confirmed, host, { added() {}, changed() {} });
  const settle = (counter: number, how: 'resolve' | 'reject', code = 0) => {
    under.get(counter)?.[how](new DatasoleError({ code, message: '', retryable: false }) as never);
    under.delete(counter);
  };
  for (const step of steps) {
    // Another replica here; and once this one has been forgotten, it shows when its operations were sent.
    if (step.restart || step.snapshot?.metadata.floor) return;
    if (step.edit) {
      now = step.now;
      if (step.error) assert.throws(() => edit(crdt, step.edit));
      else if (step.op) assert.equal(canonical(edit(crdt, step.edit)), canonical(step.op));
    }
    if (step.acked) settle(step.acked, 'resolve');
    if (step.refused) settle(step.refused, 'reject', ErrorCode.InvalidParams);
    if (step.detached) {
      for (const counter of [...under.keys()]) settle(counter, 'reject', ErrorCode.ConnectionLost);
      handlers.subscribed(false);
      idle = true;
    }
    // It is sent after a snapshot or, here, when there is none.
    if (step.send && idle) handlers.subscribed(true);
    if (step.send || step.snapshot !== undefined) idle = false;
    if (step.remote) handlers.entry(step.remote, false);
    if (step.snapshot !== undefined) handlers.entry(step.snapshot, true);
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
