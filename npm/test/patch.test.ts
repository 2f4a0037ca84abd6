import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { applyPatch } from '../src/patch.js';

interface Case {
  comment?: string;
  doc: unknown;
  patch: unknown[];
  expected?: unknown;
  error?: unknown;
  disabled?: boolean;
}

/** Applies to a frozen document: what is not owned must not be written to. */
function check({ doc, patch, expected, error }: Case): void {
  const before = JSON.stringify(doc);
  freeze(doc);
  if (error) {
    assert.throws(() => applyPatch(doc, patch), before);
  } else {
    const after = applyPatch(doc, patch);
    if (expected !== undefined) assert.deepEqual(plain(after), plain(expected), JSON.stringify(patch));
  }
  assert.equal(JSON.stringify(doc), before);
}

/** Without the difference between 0 and -0, and with `__proto__` as the member it is. */
function plain(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value), (_, inner) =>
    typeof inner === 'object' && inner && !Array.isArray(inner) ? ['{}', ...Object.entries(inner).sort()] : inner,
  );
}

function freeze(value: unknown): void {
  if (typeof value !== 'object' || value === null) return;
  Object.freeze(value);
  for (const key of Object.keys(value)) freeze(value[key as never]);
}

const root = new URL('../../../', import.meta.url);

for (const name of ['rfc6902-tests', 'rfc6902-spec-tests']) {
  describe(name, () => {
    const cases: Case[] = JSON.parse(readFileSync(new URL(`tests/vectors/${name}.json`, root), 'utf8'));
    for (const [at, one] of cases.entries()) {
      it(`${at} ${one.comment ?? ''}`, { skip: one.disabled }, () => check(one));
    }
  });
}

it('agrees with Rust and json-patch on generated cases', () => {
  const file = process.env.PATCH_CASES;
  const cargo = 'run -q -p datasole-core --example patch_cases -- --seed 6902 --count 10000';
  const lines = file
    ? readFileSync(file, 'utf8')
    : execFileSync('cargo', cargo.split(' '), { cwd: root, encoding: 'utf8', maxBuffer: 1 << 30 });
  const cases: Case[] = lines.split('\n').filter(Boolean).map((line) => JSON.parse(line));
  assert.ok(cases.length >= 10_000, `${cases.length} cases`);
  assert.ok(cases.some((one) => one.error) && cases.some((one) => !one.error));
  for (const one of cases) check(one);
});

describe('structural sharing', () => {
  it('keeps what a patch does not touch, copies what is on the way', () => {
    const doc = { rows: [{ id: 0, n: 0 }, { id: 1, n: 0 }], other: { deep: [1] } };
    freeze(doc);
    const after = applyPatch(doc, [{ op: 'replace', path: '/rows/1/n', value: 5 }]) as typeof doc;
    assert.deepEqual(after.rows[1], { id: 1, n: 5 });
    assert.notEqual(after, doc);
    assert.notEqual(after.rows, doc.rows);
    assert.notEqual(after.rows[1], doc.rows[1]);
    assert.equal(after.rows[0], doc.rows[0]);
    assert.equal(after.other, doc.other);
  });

  it('copies a container once for as long as it is owned', () => {
    const owned = new Set<object>();
    const first = applyPatch({ rows: [1, 2] }, [{ op: 'replace', path: '/rows/0', value: 3 }], owned) as { rows: number[] };
    const second = applyPatch(first, [{ op: 'replace', path: '/rows/1', value: 4 }], owned);
    assert.equal(second, first);
    assert.deepEqual(first.rows, [3, 4]);
    owned.clear();
    freeze(first);
    const third = applyPatch(first, [{ op: 'add', path: '/rows/-', value: 5 }], owned);
    assert.deepEqual([first.rows, third], [[3, 4], { rows: [3, 4, 5] }]);
  });

  it('a copied subtree is not written to through its other place', () => {
    const ops = [
      { op: 'replace', path: '/a/n', value: 1 },
      { op: 'copy', from: '/a', path: '/b' },
      { op: 'replace', path: '/a/n', value: 2 },
    ];
    assert.deepEqual(applyPatch({ a: { n: 0 } }, ops), { a: { n: 2 }, b: { n: 1 } });
  });

  it("never writes into the operations' values", () => {
    const value = { n: 0 };
    freeze(value);
    const ops = [
      { op: 'add', path: '/a', value },
      { op: 'replace', path: '/a/n', value: 1 },
    ];
    assert.deepEqual(applyPatch({}, ops), { a: { n: 1 } });
  });
});

describe('names of prototypes are data', () => {
  const names = ['__proto__', 'constructor', 'prototype', 'toString'];
  for (const name of names) {
    it(name, () => {
      const parse = (json: string) => JSON.parse(json.replaceAll('NAME', name));
      const checkBoth = (doc: string, ops: string, expected: string) => {
        const after = applyPatch(parse(doc), parse(ops));
        assert.equal(JSON.stringify(after), JSON.stringify(parse(expected)));
        assert.equal(Object.getPrototypeOf(after), Object.prototype);
      };
      checkBoth('{}', '[{"op":"add","path":"/NAME","value":{"x":1}}]', '{"NAME":{"x":1}}');
      checkBoth('{"NAME":{"x":1}}', '[{"op":"replace","path":"/NAME/x","value":2}]', '{"NAME":{"x":2}}');
      checkBoth('{"NAME":1,"a":2}', '[{"op":"remove","path":"/NAME"}]', '{"a":2}');
      checkBoth('{"NAME":{"y":1}}', '[{"op":"move","from":"/NAME/y","path":"/z"}]', '{"NAME":{},"z":1}');
      checkBoth('{"a":1}', '[{"op":"copy","from":"/a","path":"/NAME"}]', '{"a":1,"NAME":1}');
      checkBoth('{"NAME":[1]}', '[{"op":"test","path":"","value":{"NAME":[1]}}]', '{"NAME":[1]}');
      for (const op of ['{"op":"replace","path":"/NAME","value":1}', '{"op":"remove","path":"/NAME"}']) {
        assert.throws(() => applyPatch({}, parse(`[${op}]`)), `${op} on what the object does not have itself`);
      }
      assert.throws(() => applyPatch({}, parse('[{"op":"add","path":"/NAME/x","value":1}]')));
      assert.throws(() => applyPatch([], parse('[{"op":"add","path":"/NAME","value":1}]')));
    });
  }

  it('nothing has leaked into a prototype', () => {
    assert.deepEqual(Object.keys(Object.prototype), []);
    assert.equal(({} as Record<string, unknown>).x, undefined);
  });
});
