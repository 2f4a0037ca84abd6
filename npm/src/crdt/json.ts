/** Checked readers of untrusted JSON, and its maps and objects. */
import { utf8Length } from '../bytes.js';

/** A value as others read it: `toJSON` is called, and what JSON does not have is left out, or `null`. */
export function plain(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value) ?? 'null');
}

/** An object of a map; `__proto__` is a key like others. */
export function toObject<A, B>(map: Iterable<[string, A]>, of: (value: A) => B): Record<string, B> {
  return Object.fromEntries(Array.from(map, ([key, value]) => [key, of(value)]));
}

/** A map of an object's own members. */
export function toMap<A, B>(object: Record<string, A>, of: (value: A, key: string) => B): Map<string, B> {
  return new Map(Object.entries(object).map(([key, value]) => [key, of(value, key)]));
}

/** A negative, zero or positive number. */
export function compare<T extends string | number>(a: T, b: T): number {
  return +(a > b) - +(a < b);
}

/** Refuses a malformed value. */
export function must(sense: unknown, what: string): asserts sense {
  if (!sense) throw new TypeError(`no valid ${what}`);
}

/** An integer from `least` to 2^53 - 1; `otherwise` where there is nothing. */
export function integer(value: unknown, least = 0, otherwise?: number): number {
  const number = (value ?? otherwise) as number;
  must(Number.isSafeInteger(number) && number >= least, 'integer');
  return number;
}

/** The length of a text in UTF-8. */
export function bytes(text: unknown): number {
  must(typeof text === 'string', 'text');
  return utf8Length(text);
}
