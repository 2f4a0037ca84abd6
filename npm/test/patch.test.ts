import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { applyPatch as apply, LIMITS } from '../src/patch.js';

interface Case {
  comment?: string;
  doc: unknown;
  patch: unknown[];
  expected?: unknown;
  error?: unknown;
  disabled?: boolean;
}

function applyPatch(doc: unknown, ops: readonly unknown[], owned = new Set<object>(), limits = LIMITS): unknown {
  return apply(doc, ops, { owned, text: 0 }, limits);
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

describe('limits', () => {
  type Limits = Partial<typeof LIMITS>;

  /** The message of the refusal, without one that it was applied. */
  function refusal(doc: unknown, ops: unknown[], limits: Limits = {}): string | undefined {
    try {
      applyPatch(doc, ops, new Set(), { ...LIMITS, ...limits });
      return undefined;
    } catch (error) {
      return (error as Error).message.replace('cannot apply patch: ', '');
    }
  }

  /** `levels` arrays in each other. */
  const nested = (levels: number): unknown => (levels ? [nested(levels - 1)] : 1);

  it("are the Rust core's", () => {
    const source = readFileSync(new URL('client-core/src/patch/mod.rs', root), 'utf8');
    const [, line] = /Self \{ (max_operations.*) \}/.exec(source)!;
    const theirs = Object.fromEntries(
      line!.split(', ').map((member) => {
        const [name, product] = member.replaceAll('_', '').split(': ');
        return [name!.replace('max', '').toLowerCase(), product!.split(' * ').reduce((left, right) => left * +right, 1)];
      }),
    );
    assert.deepEqual(Object.fromEntries(Object.entries(LIMITS).map(([name, limit]) => [name.toLowerCase(), limit])), theirs);
  });

  it('of operations holds below, at and above', () => {
    for (const [count, fits] of [[2, true], [3, true], [4, false]] as const) {
      const ops = Array(count).fill({ op: 'test', path: '', value: 1 });
      assert.equal(refusal(1, ops, { operations: 3 }), fits ? undefined : 'too much: operations', `${count}`);
    }
  });

  it('of depth holds below, at and above', () => {
    const limits = { depth: 5 };
    for (const [levels, fits] of [[4, true], [5, true], [6, false]] as const) {
      const expected = fits ? undefined : 'too much: depth';
      for (const op of ['add', 'replace']) {
        assert.equal(refusal(0, [{ op, path: '', value: nested(levels) }], limits), expected);
        assert.equal(refusal([0], [{ op, path: '/0', value: nested(levels - 1) }], limits), expected);
        const members = { op, path: '/a', value: { b: nested(levels - 2) } };
        assert.equal(refusal({ a: 0 }, [members], limits), expected);
      }
      // Deeper than what is already there, although the moved value itself is not.
      for (const op of ['move', 'copy']) {
        const doc = { a: nested(levels - 2), b: {} };
        assert.equal(refusal(doc, [{ op, from: '/a', path: '/b/c' }], limits), expected, op);
      }
    }
    // A value that is too deep already can be made shallower.
    assert.equal(refusal(nested(9), [{ op: 'move', from: '/0/0/0/0/0', path: '/0' }], limits), undefined);
    assert.equal(refusal(nested(9), [{ op: 'remove', path: '/0/0/0/0/0/0/0' }], limits), undefined);
  });

  it('of bytes copied holds below, at and above', () => {
    // A text of 100 bytes and a member name of 2, in an object: 102 + 2 * 32.
    const doc = { a: { ä: '€'.repeat(33) + 'x' } };
    const ops = ['/c', '/d'].map((path) => ({ op: 'copy', from: '/a', path }));
    for (const [limit, fits] of [[2 * 166 - 1, false], [2 * 166, true], [2 * 166 + 1, true]] as const) {
      assert.equal(refusal(doc, ops, { copiedBytes: limit }), fits ? undefined : 'too much: copiedBytes', `${limit}`);
    }
    // Elements and scalars: 4 * 32.
    for (const [limit, fits] of [[127, false], [128, true], [129, true]] as const) {
      const ops = [{ op: 'copy', from: '/0', path: '/-' }];
      assert.equal(refusal([[1, null, false]], ops, { copiedBytes: limit }), fits ? undefined : 'too much: copiedBytes');
    }
  });

  it('of elements shifted holds below, at and above', () => {
    // Three elements behind the one that comes, four behind and with the one that goes, two, none.
    const ops = [
      { op: 'add', path: '/0', value: 0 },
      { op: 'remove', path: '/0' },
      { op: 'move', from: '/1', path: '/-' },
    ];
    for (const [limit, fits] of [[8, false], [9, true], [10, true]] as const) {
      assert.equal(refusal([1, 2, 3], ops, { shifted: limit }), fits ? undefined : 'too much: shifted', `${limit}`);
    }
    const move = [{ op: 'move', from: '/2', path: '/0' }];
    for (const [limit, fits] of [[2, false], [3, true], [4, true]] as const) {
      assert.equal(refusal([1, 2, 3], move, { shifted: limit }), fits ? undefined : 'too much: shifted', `${limit}`);
    }
  });

  it('keep a document from being doubled again and again', () => {
    const double = Array(40).fill({ op: 'copy', from: '/a', path: '/a/-' });
    assert.equal(refusal({ a: [0] }, double), 'too much: copiedBytes');
    const long = Array(100).fill({ op: 'copy', from: '/text', path: '/copies/-' });
    assert.equal(refusal({ text: 'x'.repeat(1024 * 1024), copies: [] }, long), 'too much: copiedBytes');
  });

  it('keep the front of a huge array from being written again and again', () => {
    const ops = Array(20_000).fill({ op: 'add', path: '/0', value: 0 });
    assert.equal(refusal(Array(300_000).fill(0), ops), 'too much: shifted');
  });

  it('a copy makes no more than its own parts be copied again when they are written to', () => {
    const doc = { rows: Array(10).fill(0), a: { n: [0] } };
    const owned = new Set<object>();
    const first = applyPatch(doc, [{ op: 'replace', path: '/rows/0', value: 1 }], owned) as typeof doc & { b?: unknown };
    const { rows } = first;
    const ops = [
      { op: 'replace', path: '/a/n/0', value: 1 },
      { op: 'copy', from: '/a', path: '/b' },
      { op: 'replace', path: '/rows/1', value: 2 },
      { op: 'replace', path: '/b/n/0', value: 2 },
      { op: 'replace', path: '/a/n/0', value: 3 },
    ];
    const second = applyPatch(first, ops, owned) as typeof first;
    assert.equal(second.rows, rows, 'not copied again');
    assert.deepEqual([second.rows.slice(0, 3), second.a, second.b], [[1, 2, 0], { n: [3] }, { n: [2] }]);
    assert.deepEqual(doc, { rows: Array(10).fill(0), a: { n: [0] } });
  });
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
