/**
 * Registers and maps in which the last write wins (Johnson and Thomas, RFC 677, 1975; Shapiro et al., INRIA 7506, 2011,
 * specification 8). A removal leaves a tombstone, so that it holds against older writes.
 */
import { canonical } from '../canonical.js';
import { compareStamps, Crdt, toStamp, type Content, type CrdtOperation, type CrdtState, type Stamp } from './crdt.js';
import { compare, must, toMap, toObject } from './json.js';

/** The last write. */
interface Entry extends Stamp {
  value?: any;
  removed?: boolean;
}

/** Entries by key; a register has one, without a name. */
abstract class Lww<V> extends Crdt<V, Entry> {
  /** @internal */
  override prepare(operation: CrdtOperation): () => void {
    const { type, key, value = null, op } = operation;
    const removed = op === 'remove' && type === 'lww-map';
    must(removed || op === 'set', 'op');
    must(type === 'lww-register' || typeof key === 'string', 'key');
    return () => this.put(type === 'lww-map' ? key! : '', { ...toStamp(operation), ...(removed ? { removed: true } : { value }) });
  }

  /** @internal */
  override join({ cells }: Content<Entry>): void {
    cells.forEach((entry, key) => this.put(key, entry));
  }

  /** @internal */
  override adopt(other: Content<Entry>): void {
    const { cells } = this.content;
    for (const [key, { timestamp }] of cells) if (timestamp <= other.stamp.timestamp) cells.delete(key);
    for (const [key, entry] of other.cells) this.put(key, entry);
  }

  /** @internal */
  put(key: string, entry: Entry): void {
    const { cells } = this.content;
    const old = cells.get(key);
    if (!old || (compareStamps(entry, old) || compare(text(entry), text(old))) > 0) cells.set(key, entry);
  }
}

/** A register: one value, of which the last set wins. */
export class LWWRegister<T = any> extends Lww<T> {
  readonly type = 'lww-register';
  readonly #initial: T;

  /** `initial` is shown until something is written. */
  constructor(nodeId: string, initial?: T) {
    super(nodeId);
    this.#initial = initial as T;
  }

  /** Writes any JSON, as if at a time (Unix milliseconds) where one is given. Returns the operation. */
  set(value: T, timestamp?: number): CrdtOperation {
    return this.commit('set', { value }, timestamp);
  }

  override value(): T {
    const entry = this.content.cells.get('');
    return entry ? entry.value : this.#initial;
  }

  /** @internal */
  override read({ value }: CrdtState, { cells, stamp }: Content<Entry>): void {
    if (stamp.nodeId) cells.set('', { ...stamp, value });
  }

  /** @internal */
  override write(): object {
    return toStamp(this.content.cells.get('') ?? { nodeId: '', timestamp: 0 });
  }
}

/** A map: values by key; of each, the last set or removal wins. */
export class LWWMap<T = any> extends Lww<Record<string, T>> {
  readonly type = 'lww-map';

  /** Writes any JSON, as if at a time (Unix milliseconds) where one is given. Returns the operation. */
  set(key: string, value: T, timestamp?: number): CrdtOperation {
    return this.commit('set', { key, value }, timestamp);
  }

  /** Removes an entry, if there is one. Returns the operation. */
  delete(key: string, timestamp?: number): CrdtOperation {
    return this.commit('remove', { key }, timestamp);
  }

  /** The value of an entry. */
  get(key: string): T | undefined {
    return this.content.cells.get(key)?.value;
  }

  /** True if there is an entry. */
  has(key: string): boolean {
    return this.get(key) !== undefined;
  }

  override value(): Record<string, T> {
    return toObject([...this.content.cells].filter(([, { removed }]) => !removed), ({ value }) => value);
  }

  /** @internal */
  override join(other: Content<Entry>): void {
    const { cells, floor } = this.content;
    // An entry that is missing, and older than the floor, has been removed and its tombstone forgotten.
    for (const [key, { timestamp }] of cells) {
      if (timestamp < other.floor && !other.cells.has(key)) cells.delete(key);
    }
    for (const [key, entry] of other.cells) {
      if (entry.timestamp >= floor || cells.has(key)) this.put(key, entry);
    }
    for (const [key, { timestamp, removed }] of cells) {
      if (removed && timestamp < Math.max(floor, other.floor)) cells.delete(key);
    }
  }

  /** @internal */
  override read({ value, metadata }: CrdtState, { cells, stamp }: Content<Entry>): void {
    const values = new Map(Object.entries(value));
    // Version 1 has one stamp for all.
    const entries: Record<string, Entry> = metadata.entries ?? toObject(values, () => stamp);
    toMap(entries, (entry, key) => {
      must(entry.removed || values.has(key), 'entry');
      cells.set(key, { ...toStamp(entry), ...(entry.removed ? { removed: true } : { value: values.get(key) }) });
    });
  }

  /** @internal */
  override write(): object {
    return { entries: toObject(this.content.cells, (entry) => ({ ...toStamp(entry), removed: entry.removed })) };
  }
}

/** The order of values with equal stamps, which only version 1 makes. */
function text({ value, removed }: Entry): string {
  return removed ? '' : canonical(value);
}
