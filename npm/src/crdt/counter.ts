/** Counters: how far every replica has counted (Shapiro et al., INRIA 7506, 2011, specifications 6 and 7). */
import { Crdt, hasForgotten, seenOf, type Content, type CrdtOperation, type CrdtState, type CrdtType } from './crdt.js';
import { integer, must, toMap, toObject } from './json.js';

/** How far up and down a replica has counted. */
type Totals = [up: number, down: number];

/** 2^26: a half of the range in which doubles are exact. */
const HALF = 67_108_864;

/** How far every replica has counted. */
export interface CounterVector {
  increments: Record<string, number>;
  decrements: Record<string, number>;
}

/** A counter that only grows. */
export class GCounter extends Crdt<number, Totals> {
  readonly type: CrdtType = 'g-counter';

  /** Adds an integer from 1. Returns the operation. */
  increment(by = 1): CrdtOperation {
    return this.commit('increment', { value: integer(by, 1) });
  }

  override value(): number {
    return sum(this.content.cells);
  }

  /** The totals that every replica has added and subtracted. */
  vector(): CounterVector {
    const half = (side: 0 | 1) => {
      return toObject([...this.content.cells].filter(([, totals]) => totals[side]), (totals) => totals[side]);
    };
    return { increments: half(0), decrements: half(1) };
  }

  /** @internal */
  override prepare({ type, nodeId, op, value }: CrdtOperation): () => number {
    const { cells } = this.content;
    const down = op === 'decrement' && type === 'pn-counter';
    must(down || op === 'increment', 'op');
    const by = integer(value, 1, 1);
    const change = down ? -by : by;
    const [ups, downs] = cells.get(nodeId) ?? [0, 0];
    const totals: Totals = down ? [ups, integer(downs + by)] : [integer(ups + by), downs];
    integer(Math.abs(this.value() + change));
    return () => {
      cells.set(nodeId, totals);
      return change;
    };
  }

  /** @internal */
  override read({ type, value, metadata }: CrdtState, { cells }: Content<Totals>): void {
    // Version 1 may have no vector.
    const plain = (by: number) => (by > 0 ? { server: by } : {});
    const { increments, decrements }: CounterVector =
      metadata.vector ?? { increments: plain(value), decrements: plain(-value) };
    toMap(increments, (up, node) => cells.set(node, [integer(up), 0]));
    toMap(decrements, (down, node) => cells.set(node, [cells.get(node)?.[0] ?? 0, integer(down)]));
    must(type === 'pn-counter' || !Object.keys(decrements).length, 'vector');
    sum(cells);
  }

  /** @internal */
  override join(other: Content<Totals>): void {
    const { content } = this;
    const [ours, theirs] = [remembered(content, other), remembered(other, content)];
    for (const node of theirs.keys()) {
      const side = (content: Content<Totals>, cells: Map<string, Totals>) => {
        const [up, down] = cells.get(node) ?? [0, 0];
        return { ...seenOf(content, node), up, down };
      };
      let [most, rest] = [side(content, ours), side(other, theirs)];
      // Totals of which nothing else is known only grow.
      if ((rest.upto - most.upto || rest.up + rest.down - most.up - most.down) > 0) [most, rest] = [rest, most];
      let { up, down } = most;
      for (const [counter, effect] of rest.ahead) {
        if (counter <= most.upto || most.ahead.has(counter)) continue;
        if (effect > 0) up += effect;
        else down -= effect;
      }
      ours.set(node, [integer(up), integer(down)]);
    }
    this.#become(ours);
  }

  /** @internal */
  override adopt(other: Content<Totals>): void {
    const cells = new Map(this.content.cells);
    for (const [node, [up, down]] of other.cells) {
      const [ups, downs] = cells.get(node) ?? [0, 0];
      cells.set(node, [Math.max(up, ups), Math.max(down, downs)]);
    }
    this.#become(cells);
  }

  #become(cells: Map<string, Totals>): void {
    sum(cells);
    this.content.cells = cells;
  }

  /** @internal */
  override write(): object {
    return { vector: this.vector() };
  }
}

/** A counter. */
export class PNCounter extends GCounter {
  override readonly type = 'pn-counter';

  /** Takes away an integer from 1. Returns the operation. */
  decrement(by = 1): CrdtOperation {
    return this.commit('decrement', { value: integer(by, 1) });
  }
}

/** The totals of a side without those that the other has put under `retired`. */
function remembered(side: Content<Totals>, other: Content<Totals>): Map<string, Totals> {
  const gone = (node: string) => {
    const seen = side.seen.get(node);
    return node === 'retired' ? side.floor < other.floor : seen && hasForgotten(other, node, seen);
  };
  return new Map([...side.cells].filter(([node]) => !gone(node)));
}

/** The total, counted in two halves, which do not leave the range in which doubles are exact. Throws when the total does. */
function sum(cells: Map<string, Totals>): number {
  let [high, low] = [0, 0];
  for (const [up, down] of cells.values()) {
    const by = up - down;
    low += by % HALF;
    high += Math.trunc(by / HALF);
  }
  const total = high * HALF + low;
  integer(Math.abs(total));
  return total;
}
