/** Bytes: those of an application, in any buffer or view of whatever realm and class, and those of texts. */
import { Code } from './codes.js';
import { localError } from './errors.js';

const encoder = /* @__PURE__ */ new TextEncoder();

/**
 * A copy of `value` if it is bytes: the caller may change its own, and the copy may be transferred. `slice` would not do,
 * which Node's `Buffer` and other classes have made a view.
 *
 * @throws DatasoleError for a `Blob`, whose bytes can only be waited for.
 */
export function copyBytes(value: unknown): Uint8Array<ArrayBuffer> | undefined {
  if (ArrayBuffer.isView(value)) return new Uint8Array(new Uint8Array(value.buffer, value.byteOffset, value.byteLength));
  // `instanceof` knows only this realm's; a frame has its own.
  const tag = Object.prototype.toString.call(value);
  if (/ (Shared)?ArrayBuffer]/.test(tag)) return new Uint8Array(new Uint8Array(value as ArrayBuffer));
  if (/ (Blob|File)]/.test(tag)) {
    throw localError(Code.InvalidParams, 'a Blob cannot be sent: send its arrayBuffer()');
  }
  return undefined;
}

/** The length of a text in UTF-8. */
export function utf8Length(text: string): number {
  return encoder.encode(text).length;
}
