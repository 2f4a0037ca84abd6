/**
 * Sets: one that only grows (Shapiro et al., INRIA 7506, 2011, specification 11), and one in which an addition wins
 * over removals that have not seen it (Bieniusa et al., "An optimized conflict-free replicated set", INRIA 8083, 2012).
 */
import { canonical } from '../canonical.js';
import { Crdt, hasForgotten, knows, type Content, type CrdtOperation, type CrdtState, type CrdtType, type Dot } from './crdt.js';
import { compare, must, plain } from './json.js';

/** An element. */
interface Element {
  value: any;
  /** The additions that were not removed, by their text. */
  dots: Map<string, Dot>;
}

/** A set of any JSON that only grows; equal as JSON is the same element. */
export class GSet<T = any> extends Crdt<T[], Element> {
  readonly type: CrdtType = 'g-set';

  /** Adds an element. Returns the operation. */
  add(value: T): CrdtOperation {
    return this.commit('add', { value });
  }

  /** True if the value is an element. */
  has(value: T): boolean {
    return this.content.cells.has(canonical(plain(value)));
  }

  /** The elements, in the order of their JSON text. */
  override value(): T[] {
    return this.elements().map(({ value }) => value);
  }

  /** @internal */
  elements(): Element[] {
    return [...this.content.cells].sort(([a], [b]) => compare(a, b)).map(([, element]) => element);
  }

  /** @internal */
  override prepare({ type, nodeId, counter, op, value = null, dots }: CrdtOperation): () => void {
    const or = type === 'or-set';
    must(!or || !dots?.some(([node, number]) => node === nodeId && number === counter), 'dots');
    must(op === 'add' || (or && op === 'remove'), 'op');
    return () => {
      if (op !== 'add') return;
      const key = canonical(value);
      const { dots } = this.content.cells.get(key) ?? { dots: new Map<string, Dot>() };
      dots.set(`${nodeId},${counter}`, [nodeId, counter]);
      this.content.cells.set(key, { value, dots });
    };
  }

  /** @internal */
  override read({ value, metadata }: CrdtState, { cells }: Content<Element>): void {
    // Version 1 has no dots.
    const dots: Dot[][] = metadata.dots ?? value.map((_: T, index: number) => [['server', index + 1]]);
    value.forEach((value: T, index: number) => {
      cells.set(canonical(value), { value, dots: new Map(dots[index]!.map((dot) => [String(dot), dot])) });
    });
    must(cells.size === value.length, 'value');
  }

  /** @internal */
  override join({ cells }: Content<Element>): void {
    cells.forEach((element, key) => this.content.cells.set(key, element));
  }

  /** @internal */
  override adopt(other: Content<Element>): void {
    this.join(other);
  }

  /** @internal */
  override write(): object {
    return {};
  }
}

/** A set of any JSON; equal as JSON is the same element. An addition wins over removals that have not seen it. */
export class ORSet<T = any> extends GSet<T> {
  override readonly type = 'or-set';

  /** Adds an element. Returns the operation. */
  override add(value: T): CrdtOperation {
    return this.commit('add', { value, dots: this.dots(value) });
  }

  /** Removes an element, if it is one. Returns the operation. */
  delete(value: T): CrdtOperation {
    return this.commit('remove', { value, dots: this.dots(value) });
  }

  /** @internal */
  override dots(value: unknown): Dot[] | undefined {
    const element = this.content.cells.get(canonical(plain(value)));
    return element && sorted(element);
  }

  /** @internal */
  override note({ timestamp, op, value = null, dots = [] }: CrdtOperation): void {
    if (op === 'none') return;
    const { cells, seen } = this.content;
    const key = canonical(value);
    const live = cells.get(key)?.dots;
    // An addition that outlives its forgotten replica shows nothing of that replica.
    const shown = dots.filter((dot) => seen.has(dot[0]) || !live?.has(String(dot)));
    for (const [node, number] of shown) this.see(node, { upto: 0, time: timestamp, ahead: new Map([[number, 0]]) });
    for (const dot of dots) live?.delete(String(dot));
    if (live && !live.size) cells.delete(key);
  }

  /** @internal */
  override join(other: Content<Element>): void {
    const { content } = this;
    const cells = new Map<string, Element>();
    for (const [key, { value }] of [...content.cells, ...other.cells]) {
      const live = (side: Content<Element>) => side.cells.get(key)?.dots ?? new Map<string, Dot>();
      const [ours, theirs] = [live(content), live(other)];
      // An addition that a side has seen and does not have was removed there.
      const dots = [...ours, ...theirs].filter(
        ([id, dot]) => (ours.has(id) || !hasSeen(content, dot, other)) && (theirs.has(id) || !hasSeen(other, dot, content)),
      );
      if (dots.length) cells.set(key, { value, dots: new Map(dots) });
    }
    content.cells = cells;
  }

  /** @internal */
  override adopt({ cells }: Content<Element>): void {
    this.content.cells = cells;
  }

  /** @internal */
  override write(): object {
    return { dots: this.elements().map(sorted) };
  }
}

/**
 * True if a side has seen an addition that lives on the other. An addition of a replica that neither remembers has been
 * seen and forgotten.
 */
function hasSeen(side: Content<Element>, dot: Dot, other: Content<Element>): boolean {
  const theirs = other.seen.get(dot[0]);
  return knows(side, dot) || (theirs ? hasForgotten(side, dot[0], theirs) : side.floor > 0 && !side.seen.has(dot[0]));
}

function sorted({ dots }: Element): Dot[] {
  return [...dots.values()].sort(([a, x], [b, y]) => compare(a, b) || x - y);
}
