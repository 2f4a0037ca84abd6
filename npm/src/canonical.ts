/** Canonical JSON (RFC 8785): the text of a value, the same for all that are equal. */

/** Members sorted, no white space. */
export function canonical(value: unknown): string {
  if (!value || typeof value !== 'object') return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(canonical)}]`;
  const member = (key: string) => `${JSON.stringify(key)}:${canonical((value as Record<string, unknown>)[key])}`;
  return `{${Object.keys(value).sort().map(member)}}`;
}
