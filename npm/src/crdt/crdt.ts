/**
 * The base of all CRDTs: the seen operations, the clock, and the handlers.
 *
 * The rules are those of `docs/protocol.md` and of the Rust crate's `crdt` module; both are held to the same vectors.
 * Operations commute and count once, so it does not matter how often, in which order, or in which mixture of operations
 * and states they come.
 */
import { call, once, show } from '../handlers.js';
import { bytes, compare, integer, must, plain, toMap, toObject } from './json.js';

/** The types of CRDTs. */
export type CrdtType = 'g-counter' | 'pn-counter' | 'lww-register' | 'lww-map' | 'g-set' | 'or-set';

/** When, and by whom: a hybrid logical clock (Kulkarni et al. 2014). Later ones win; there are no equal ones. */
export interface Stamp {
  /** Unix milliseconds. */
  timestamp: number;
  /** Orders what one clock stamped within one millisecond; 0 where absent. */
  logical?: number;
  /** The replica. */
  nodeId: string;
}

/** The id of an operation: the replica, and the operation's number there. */
export type Dot = [nodeId: string, counter: number];

/** An operation, one change by one replica, as on the wire. */
export interface CrdtOperation extends Stamp {
  type: CrdtType;
  /** Counts the replica's operations from 1. */
  counter: number;
  /** The replica's operations up to this one have been confirmed: none of them comes again. */
  done?: number;
  op: 'increment' | 'decrement' | 'set' | 'add' | 'remove' | 'none';
  key?: string;
  value?: unknown;
  dots?: Dot[];
}

/** A state, as on the wire. */
export interface CrdtState<V = any> {
  type: CrdtType;
  /** The application's view. */
  value: V;
  metadata: Stamp & { type: CrdtType; version: number; [member: string]: any };
}

/** Where the operations of a CRDT go that belongs to a client. @internal */
export interface Outbox {
  /** Unix milliseconds. */
  now(): number;
  /** The number of operations that the server has not confirmed. */
  readonly pending: number;
  /** Of the operations of the replica before this one, the last up to which all are confirmed, if any. */
  done(operation: Pick<CrdtOperation, 'nodeId' | 'counter'>): number | undefined;
  add(operation: CrdtOperation): void;
  /** The application has it: it is followed for good. */
  hold(): void;
}

/** The seen operations of a replica. @internal */
export interface Seen {
  /** Every operation up to this one. */
  upto: number;
  /** The latest timestamp. */
  time: number;
  /** Operations after a gap, with their change of a counter. */
  ahead: Map<number, number>;
}

/** The parts of a CRDT. @internal */
export interface Content<Cell> {
  /** The latest seen. */
  stamp: Stamp;
  /** Operations with an earlier timestamp are refused, because the entries they may contradict have been forgotten. */
  floor: number;
  /** How many operations have been forgotten. */
  forgotten: number;
  seen: Map<string, Seen>;
  /** By type. */
  cells: Map<string, Cell>;
}

/** Own operations that wait for the server. */
const MAX_PENDING = 10_000;
/** Bytes of a map's key. */
const MAX_KEY = 1024;
/** No more operations of a replica are kept after a gap. */
const MAX_AHEAD = 1024;

/**
 * A value that every replica may change at any time, and that ends the same everywhere.
 *
 * Alone, changes take effect at once and travel by hand: {@link apply} the operations that mutators return, or
 * {@link merge} states. One that belongs to a client sends and receives by itself.
 *
 * @typeParam V - What {@link value} returns.
 */
export abstract class Crdt<V = any, Cell = any> {
  /** Vue leaves it as it is. @internal */
  readonly __v_skip = true;
  /** Which one. */
  abstract readonly type: CrdtType;
  /** Names this replica; nothing else may ever have the same name. */
  declare readonly nodeId: string;
  /** @internal */
  content: Content<Cell> = empty();
  /** @internal */
  declare outbox?: Outbox;
  readonly #handlers = new Set<(value: V) => void>();
  /** The last number given away, and the latest stamp seen; neither ever goes back. */
  #counter = 0;
  #clock: Stamp = { nodeId: '', timestamp: 0 };
  readonly #tell = once(() => call(this.#handlers, this.value()));

  constructor(nodeId: string) {
    must(!/^v1:/.test(nodeId), 'nodeId');
    this.nodeId = checkNode(nodeId);
  }

  /** The value; not to be changed. */
  abstract value(): V;

  /**
   * Checks an operation; returns a function that performs it and returns the change of a counter. Throws if the
   * operation is malformed.
   *
   * @internal
   */
  abstract prepare(operation: CrdtOperation): () => number | void;

  /** The effect of an operation even if it has been seen. @internal */
  note(_operation: CrdtOperation): void {}

  /** Makes cells of a state. Throws when it makes no sense. @internal */
  abstract read(state: CrdtState, content: Content<Cell>): void;

  /** Takes over cells of another replica; the seen operations are unchanged. @internal */
  abstract join(other: Content<Cell>): void;

  /** Takes over cells of a version 1 server, which does not say what it has seen. @internal */
  abstract adopt(other: Content<Cell>): void;

  /** The members that the type adds to a state's metadata. @internal */
  abstract write(): object;

  /** The number of own pending operations: not confirmed by the server yet. */
  get pending(): number {
    return this.outbox?.pending ?? 0;
  }

  /** Calls `handler` at once with the value, then after changes, once for those that come together. */
  subscribe(handler: (value: V) => void): { unsubscribe(): void } {
    return { unsubscribe: show(this.#handlers, handler, this.value()) };
  }

  /**
   * Applies an operation. `false`: the operation has been seen or is malformed, and nothing has changed. One of version 1,
   * without `counter`, is new whenever it comes, unless it is this replica's own.
   */
  apply(operation: CrdtOperation | Omit<CrdtOperation, 'counter'>): boolean {
    return attempt(() => this.#take('counter' in operation ? operation : this.#number(operation)));
  }

  /** Merges a state. `false`: the state is malformed, and nothing has changed. */
  merge(state: CrdtState): boolean {
    return attempt(() => {
      const { content } = this;
      const other = this.#read(state);
      this.join(other);
      const { floor, forgotten } = content;
      for (const [node, of] of content.seen) if (hasForgotten(other, node, of)) content.seen.delete(node);
      const seen = [...other.seen].filter(([node, of]) => !hasForgotten(content, node, of));
      for (const [node, of] of seen) this.see(node, of);
      content.floor = Math.max(floor, other.floor);
      content.forgotten = Math.max(floor < other.floor ? 0 : forgotten, floor > other.floor ? 0 : other.forgotten);
      this.#changed(other.stamp);
    });
  }

  /** Takes over the server's state; `null` for none. @internal */
  replace(state: CrdtState | null): boolean {
    return attempt(() => {
      const content = state ? this.#read(state) : empty<Cell>();
      if (!state || state.metadata.seen) this.content = content;
      else this.adopt(content);
      this.#changed(content.stamp);
    });
  }

  /** Becomes the same as another. @internal */
  copy({ content }: Crdt<V, Cell>): void {
    this.content = structuredClone(content);
    this.#changed();
  }

  /** The whole state, to be merged by others. */
  state(): CrdtState<V> {
    const { type, content } = this;
    const { stamp, floor, forgotten } = content;
    let version = forgotten;
    const seen = toObject(content.seen, ({ upto, time, ahead }) => {
      version += upto + ahead.size;
      return [upto, time, ...(ahead.size ? [[...ahead].sort(([a], [b]) => a - b)] : [])];
    });
    const metadata = { type, ...stamp, version, seen, floor: floor || undefined, ...this.write() };
    return { type, value: this.value() ?? (null as V), metadata };
  }

  /** True if an operation has been seen. @internal */
  knows({ nodeId, counter }: CrdtOperation): boolean {
    return knows(this.content, [nodeId, counter]);
  }

  /** An operation of this replica. Throws when it makes no sense. @internal */
  commit(op: CrdtOperation['op'], what: Partial<CrdtOperation>, at?: number): CrdtOperation {
    const { type, nodeId, outbox, content } = this;
    if (this.pending >= MAX_PENDING) throw new RangeError(`${MAX_PENDING} operations wait for the server`);
    const clock = this.#clock;
    const timestamp = at ?? Math.max(outbox?.now() ?? Date.now(), clock.timestamp);
    const logical = timestamp === clock.timestamp ? (clock.logical ?? 0) + 1 : undefined;
    const { upto, ahead } = seenOf(content, nodeId);
    const counter = Math.max(this.#counter, upto, ...ahead.keys()) + 1;
    const done = outbox?.done({ nodeId, counter });
    // As others read it.
    const operation = plain({ type, nodeId, counter, done, timestamp, logical, op, ...what }) as CrdtOperation;
    this.#take(operation);
    this.#counter = counter;
    outbox?.add(operation);
    return operation;
  }

  /** An operation of version 1 as the next one of its replica: what it cannot say is what has been seen here. */
  #number(operation: Omit<CrdtOperation, 'counter'>): CrdtOperation {
    const { nodeId, timestamp, op, value } = operation;
    must(nodeId !== this.nodeId, 'nodeId');
    const { upto, time, ahead } = seenOf(this.content, nodeId);
    const counter = Math.max(upto, ...ahead.keys()) + 1;
    const less = typeof value === 'number' && value < 0 && (op === 'decrement' || this.type === 'pn-counter');
    return {
      ...operation,
      counter,
      ...(timestamp === time ? { logical: counter } : {}),
      ...(less ? { op: op === 'increment' ? 'decrement' : 'increment', value: -value } : {}),
      dots: this.dots?.(value),
    };
  }

  /** The additions of a value that an operation replaces. @internal */
  dots?(value: unknown): Dot[] | undefined;

  #take(operation: CrdtOperation): boolean {
    const { type, counter, done, op, key, dots } = operation;
    const { content } = this;
    const stamp = toStamp(operation);
    must(type === this.type, 'type');
    must(bytes(key ?? '') <= MAX_KEY, 'key');
    for (const [node, number] of [[stamp.nodeId, counter] as Dot, ...(dots ?? [])]) {
      checkNode(node);
      integer(number, 1);
    }
    const upto = integer(done, 0, 0);
    must(integer(counter) > upto, 'counter');
    const change = op === 'none' ? () => 0 : this.prepare(operation);
    if (this.knows(operation)) {
      // A replica that sees a removal before the addition still has to remove the additions that this one replaces.
      this.note(operation);
      return false;
    }
    must(op === 'none' || stamp.timestamp >= content.floor, 'timestamp');
    const seen = seenOf(content, stamp.nodeId);
    must(counter <= Math.max(upto, seen.upto) + 1 || seen.ahead.size < MAX_AHEAD, 'counter');
    this.note(operation);
    // An operation that only `done` showed is not counted: see `version`.
    const { upto: before, ahead } = seenOf(content, stamp.nodeId);
    content.forgotten -= Math.max(0, upto - before - [...ahead.keys()].filter((number) => number <= upto).length);
    this.see(stamp.nodeId, { upto, time: stamp.timestamp, ahead: new Map([[counter, change() || 0]]) });
    this.#changed(stamp);
    return true;
  }

  /** Adds to the seen operations of a replica. @internal */
  see(node: string, { upto, time, ahead }: Seen): void {
    const of = seenOf(this.content, node);
    this.content.seen.set(node, of);
    of.upto = Math.max(of.upto, upto);
    of.time = Math.max(of.time, time);
    for (const [counter, effect] of ahead) of.ahead.set(counter, Math.max(effect, of.ahead.get(counter) ?? effect));
    while (of.ahead.has(of.upto + 1)) of.upto++;
    for (const counter of of.ahead.keys()) if (counter <= of.upto) of.ahead.delete(counter);
  }

  #read(state: CrdtState): Content<Cell> {
    const { metadata } = state;
    must(state.type === this.type, 'type');
    const content = empty<Cell>();
    content.stamp = toStamp(metadata);
    content.floor = integer(metadata.floor, 0, 0);
    content.forgotten = integer(metadata.version, 0, 0);
    content.seen = toMap<any, Seen>(metadata.seen ?? {}, ([upto, time, ahead = []]) => {
      content.forgotten -= integer(upto) + ahead.length;
      return { upto, time: integer(time), ahead: new Map(ahead) };
    });
    this.read(state, content);
    return content;
  }

  #changed(stamp?: Stamp): void {
    const { content } = this;
    if (stamp && compareStamps(stamp, content.stamp) > 0) content.stamp = stamp;
    if (compareStamps(content.stamp, this.#clock) > 0) this.#clock = content.stamp;
    this.#tell();
  }
}

/** The seen operations of a replica, none maybe. @internal */
export function seenOf({ seen }: Content<unknown>, node: string): Seen {
  return seen.get(node) ?? { upto: 0, time: 0, ahead: new Map() };
}

/** True if an operation has been seen. @internal */
export function knows(content: Content<unknown>, [node, counter]: Dot): boolean {
  const { upto, ahead } = seenOf(content, node);
  return counter <= upto || ahead.has(counter);
}

/** True if a side has seen, and forgotten, a replica that the other remembers so. @internal */
export function hasForgotten({ seen, floor }: Content<unknown>, node: string, { time }: Seen): boolean {
  return time < floor && !seen.has(node);
}

/** Positive when `a` is later. @internal */
export function compareStamps(a: Stamp, b: Stamp): number {
  return a.timestamp - b.timestamp || (a.logical ?? 0) - (b.logical ?? 0) || compare(a.nodeId, b.nodeId);
}

/** The stamp of anything that has one. @internal */
export function toStamp({ nodeId, timestamp, logical }: Stamp): Stamp {
  return { nodeId, timestamp: integer(timestamp), logical: integer(logical, 0, 0) || undefined };
}

/** Checks the name of a replica: 1 to 128 bytes, after the mark of version 1. */
function checkNode(node: string): string {
  const name = node.replace(/^v1:/, '');
  must(name && bytes(name) <= 128 && node !== 'retired', 'nodeId');
  return node;
}

function empty<Cell>(): Content<Cell> {
  return { stamp: { nodeId: '', timestamp: 0 }, floor: 0, forgotten: 0, seen: new Map(), cells: new Map() };
}

function attempt(action: () => boolean | void): boolean {
  try {
    return action() ?? true;
  } catch {
    return false;
  }
}
