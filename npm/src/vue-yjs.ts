/**
 * Yjs documents for Vue: {@link useDocument}. Needs `yjs` and `y-protocols`.
 *
 * @packageDocumentation
 */
import { getCurrentScope, onScopeDispose, shallowRef, type ShallowRef } from 'vue';
import { openDocument, type DocumentState } from './documents.js';
import { useClient } from './vue.js';

export type { DocumentState };

/**
 * The document of a key: one for all components that use it, synchronised while one of them is there and 5 s longer.
 *
 * @example
 * ```ts
 * const document = useDocument('notes');
 * watchEffect(() => document.value.provider && bind(editor, document.value.doc.getText('text')));
 * ```
 */
export function useDocument(key: string): Readonly<ShallowRef<DocumentState>> {
  const { subscribe, getSnapshot } = openDocument(useClient(), key);
  const state = shallowRef(getSnapshot());
  if (typeof window === 'undefined' || !getCurrentScope()) return state;
  onScopeDispose(subscribe(() => void (state.value = getSnapshot())));
  state.value = getSnapshot();
  return state;
}
