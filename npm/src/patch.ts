/**
 * RFC 6902 on immutable documents: parts that a patch does not touch keep their identity.
 *
 * A container is copied the first time a patch writes into it and owned from then on: later writes go into the copy,
 * until the owner lets somebody see it. Members named `__proto__`, `constructor` and `prototype` are data like any
 * other.
 */

type Container = Record<string, unknown> | unknown[];

/** Containers not seen outside, which may be written to. */
export type Owned = Set<object>;

/**
 * The document after `operations`. Only containers in `owned` are written to; copies are added to it.
 *
 * @throws Error when an operation cannot be applied. Owned containers may then have been written to.
 */
export function applyPatch(document: unknown, operations: readonly unknown[], owned: Owned = new Set()): unknown {
  const holder = [document];
  owned.add(holder);
  for (const operation of operations) perform(holder, operation as Record<string, unknown>, owned);
  owned.delete(holder);
  return holder[0];
}

function perform(holder: unknown[], operation: Record<string, unknown>, owned: Owned): void {
  const path = tokens(operation.path);
  switch (operation.op) {
    case 'add':
      return add(holder, path, value(operation), owned);
    case 'remove':
      take(holder, path, owned);
      return;
    case 'replace': {
      const parent = writable(holder, path, owned);
      const key = existing(parent, last(path));
      set(parent, key, value(operation));
      return;
    }
    case 'move': {
      const from = tokens(operation.from);
      if (from.length < path.length && from.every((token, at) => token === path[at])) refuse('moves into itself');
      return add(holder, path, take(holder, from, owned), owned);
    }
    case 'copy': {
      const source = read(holder, tokens(operation.from));
      // The value has two places from here on: writing through one must not show in the other.
      owned.clear();
      owned.add(holder);
      return add(holder, path, source, owned);
    }
    case 'test':
      if (!same(read(holder, path), value(operation))) refuse('test failed');
      return;
    default:
      refuse('unknown operation');
  }
}

function add(holder: unknown[], path: string[], added: unknown, owned: Owned): void {
  const parent = writable(holder, path, owned);
  const key = last(path);
  if (parent === holder || !Array.isArray(parent)) set(parent, key, added);
  else if (key === '-') parent.push(added);
  else parent.splice(index(key, parent.length), 0, added);
}

function take(holder: unknown[], path: string[], owned: Owned): unknown {
  const parent = writable(holder, path, owned);
  if (parent === holder) refuse('removes the document');
  const key = existing(parent, last(path));
  if (Array.isArray(parent)) return parent.splice(key as number, 1)[0];
  const taken = parent[key];
  delete parent[key];
  return taken;
}

/** The container that holds what `path` names, with every container down to it copied unless owned. */
function writable(holder: unknown[], path: string[], owned: Owned): Container {
  let parent: Container = holder;
  for (let at = 0; at < path.length - 1; at++) {
    const key = existing(parent, path[at]!);
    let child = (parent as Record<string, unknown>)[key] as Container;
    if (typeof child !== 'object' || child === null) refuse('no container');
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
    if (typeof node !== 'object' || node === null) refuse('no container');
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

/** The token as a key of the container. */
function existing(container: Container, token: string): any {
  if (Array.isArray(container)) return index(token, container.length - 1);
  if (!Object.hasOwn(container, token)) refuse('no such member');
  return token;
}

function index(token: string, max: number): number {
  if (!/^(0|[1-9]\d*)$/.test(token) || +token > max) refuse('no such element');
  return +token;
}

/** The tokens of a JSON pointer, after the one that names the document in its holder. */
function tokens(pointer: unknown): string[] {
  if (typeof pointer !== 'string' || (pointer && pointer[0] !== '/') || /~(?![01])/.test(pointer)) refuse('bad pointer');
  const path = (pointer as string).split('/');
  path[0] = '0';
  return (pointer as string).includes('~') ? path.map(unescape) : path;
}

function unescape(token: string): string {
  return token.replaceAll('~1', '/').replaceAll('~0', '~');
}

function last(path: string[]): string {
  return path[path.length - 1]!;
}

function value(operation: Record<string, unknown>): unknown {
  if (!Object.hasOwn(operation, 'value')) refuse('no value');
  return operation.value;
}

function same(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== 'object' || typeof b !== 'object' || !a || !b || Array.isArray(a) !== Array.isArray(b)) return false;
  const keys = Object.keys(a);
  return (
    keys.length === Object.keys(b).length &&
    keys.every((key) => Object.hasOwn(b, key) && same(a[key as never], b[key as never]))
  );
}

function refuse(why: string): never {
  throw new Error(`cannot apply patch: ${why}`);
}
