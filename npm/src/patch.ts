/**
 * RFC 6902 on immutable documents: parts that a patch does not touch keep their identity.
 *
 * A container is copied the first time a patch writes into it and owned from then on: later writes go into the copy,
 * until the owner lets somebody see it. Members named `__proto__`, `constructor` and `prototype` are data like any
 * other.
 */
import { utf8Length } from './bytes.js';
import { canonical } from './canonical.js';

type Container = Record<string, unknown> | unknown[];

/** Bounds on what a patch may do: those of the Rust core, which says what each counts. No products, which bundlers keep unused. */
export const LIMITS = { operations: 100_000, depth: 120, copiedBytes: 67_108_864, shifted: 100_000_000 };

/** A document that is patched. */
export interface Patched {
  /** Containers not seen outside, which may be written to. */
  owned: Set<object>;
  /** The sizes of what was added, as text: never less. */
  text: number;
}

/** A patch being applied, and what its operations have cost together. */
interface Work {
  of: Patched;
  limits: typeof LIMITS;
  copied: number;
  shifted: number;
}

/** What a value costs beside its text when it is copied, and at most adds to a text beside those in it; bytes. */
const NODE = 32;

/**
 * The document after `operations`. Only containers that `of` owns are written to; copies are added to them, and sizes to its text.
 *
 * @throws Error when an operation cannot be applied. Owned containers may then have been written to.
 */
export function applyPatch(document: unknown, operations: readonly unknown[], of: Patched, limits = LIMITS): unknown {
  if (operations.length > limits.operations) refuse('operations');
  const holder = [document];
  const work = { of, limits, copied: 0, shifted: 0 };
  for (const operation of operations) perform(holder, operation as Record<string, unknown>, work);
  return holder[0];
}

function perform(holder: unknown[], operation: Record<string, unknown>, work: Work): void {
  const path = tokens(operation.path);
  switch (operation.op) {
    case 'add':
      return add(holder, path, fitting(path, value(operation), work), work);
    case 'remove':
      take(holder, path, work);
      return;
    case 'replace': {
      const parent = writable(holder, path, work);
      const key = existing(parent, path.at(-1)!);
      set(parent, key, fitting(path, value(operation), work));
      return;
    }
    case 'move': {
      const from = tokens(operation.from);
      if (from.length < path.length && from.every((token, at) => token === path[at])) refuse();
      const taken = take(holder, from, work);
      return add(holder, path, path.length > from.length ? fitting(path, taken, work) : taken, work);
    }
    case 'copy': {
      const source = read(holder, tokens(operation.from));
      share(source, work);
      return add(holder, path, fitting(path, source, work), work);
    }
    case 'test':
      if (canonical(read(holder, path)) !== canonical(value(operation))) refuse();
      return;
    default:
      refuse();
  }
}

function add(holder: unknown[], path: string[], added: unknown, work: Work): void {
  const parent = writable(holder, path, work);
  const key = path.at(-1)!;
  if (parent === holder || !Array.isArray(parent)) set(parent, key, added);
  else if (key === '-') parent.push(added);
  else parent.splice(shift(parent, index(key, parent.length), work), 0, added);
}

function take(holder: unknown[], path: string[], work: Work): unknown {
  const parent = writable(holder, path, work);
  if (parent === holder) refuse();
  const key = existing(parent, path.at(-1)!);
  if (Array.isArray(parent)) return parent.splice(shift(parent, key, work), 1)[0];
  const taken = parent[key];
  delete parent[key];
  return taken;
}

/** `at`, where an element comes or goes: those behind it make room or close up. */
function shift(elements: unknown[], at: number, work: Work): number {
  if ((work.shifted += elements.length - at) > work.limits.shifted) refuse('shifted');
  return at;
}

/** `added`, unless the document would be nested too deeply with it at `path`. */
function fitting(path: string[], added: unknown, { limits, of }: Work): unknown {
  walk(added, limits.depth - path.length + 1, (value, key) => {
    of.text += NODE + key.length + (typeof value === 'string' ? value.length : 0);
  });
  return added;
}

/**
 * Counts a value that is copied. It has two places from here on, and writing through one must not show in the other:
 * nothing of it is owned any more.
 */
function share(copied: unknown, work: Work): void {
  walk(copied, Infinity, (value, key) => {
    work.of.owned.delete(value as object);
    work.copied += NODE + (key ? utf8Length(key) : 0) + (typeof value === 'string' ? utf8Length(value) : 0);
    if (work.copied > work.limits.copiedBytes) refuse('copiedBytes');
  });
}

/** Visits a value and all inside it, of members the key as well, with at most so many `levels` of containers. */
function walk(value: unknown, levels: number, visit: (value: unknown, key: string) => void, key = ''): void {
  visit(value, key);
  if (typeof value !== 'object' || !value) return;
  if (levels < 1) refuse('depth');
  if (Array.isArray(value)) value.forEach((inner) => walk(inner, levels - 1, visit));
  else for (const [key, inner] of Object.entries(value)) walk(inner, levels - 1, visit, key);
}

/** The container that holds what `path` names, with every container down to it copied unless owned. */
function writable(holder: unknown[], path: string[], { of: { owned } }: Work): Container {
  let parent: Container = holder;
  for (const token of path.slice(0, -1)) {
    const key = existing(parent, token);
    let child = (parent as Record<string, unknown>)[key] as Container;
    if (typeof child !== 'object' || !child) refuse();
    if (!owned.has(child)) {
      child = Array.isArray(child) ? child.slice() : { ...child };
      owned.add(child);
      set(parent, key, child);
    }
    parent = child;
  }
  return parent;
}

function read(holder: unknown[], path: string[]): unknown {
  let node: unknown = holder;
  for (const token of path) {
    node = (node as Record<string, unknown>)[existing(node as Container, token)];
  }
  return node;
}

/** Assignment would call the setter of `__proto__`. */
function set(container: Container, key: string | number, added: unknown): void {
  if (key === '__proto__') {
    Object.defineProperty(container, key, { value: added, writable: true, enumerable: true, configurable: true });
  } else {
    (container as Record<string, unknown>)[key] = added;
  }
}

/** The token as a key of the container, if it is one. */
function existing(container: Container, token: string): any {
  if (Array.isArray(container)) return index(token, container.length - 1);
  if (typeof container !== 'object' || !container || !Object.hasOwn(container, token)) refuse();
  return token;
}

function index(token: string, max: number): number {
  const at = +token >>> 0;
  if (`${at}` !== token || at > max) refuse();
  return at;
}

/** The tokens of a JSON pointer, after the one that names the document in its holder. Of what is no text there are none. */
function tokens(pointer: unknown): string[] {
  const path = (pointer as string).split('/');
  if (path[0]) refuse();
  path[0] = '0';
  if (!(pointer as string).includes('~')) return path;
  if (/~(?![01])/.test(pointer as string)) refuse();
  return path.map((token) => token.replaceAll('~1', '/').replaceAll('~0', '~'));
}

function value(operation: Record<string, unknown>): unknown {
  if (!Object.hasOwn(operation, 'value')) refuse();
  return operation.value;
}

/** A limit that is exceeded is told by its name. */
export function refuse(limit?: keyof typeof LIMITS): never {
  throw new Error(`cannot apply patch: ${limit ? `too much: ${limit}` : 'it does not fit'}`);
}
