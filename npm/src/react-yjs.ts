/**
 * Yjs documents for React: {@link useDocument}. Needs `yjs` and `y-protocols`.
 *
 * @packageDocumentation
 */
import { useMemo, useSyncExternalStore } from 'react';
import { openDocument, type DocumentState } from './documents.js';
import { useClient } from './react.js';

export type { DocumentState };

/**
 * The document of a key: one for all components that use it, synchronised while one of them is mounted and 5 s longer.
 *
 * @example
 * ```tsx
 * const { doc, provider, synced } = useDocument('notes');
 * useEffect(() => provider && bind(editor, doc.getText('text'), provider.awareness), [doc, provider]);
 * ```
 */
export function useDocument(key: string): DocumentState {
  const client = useClient();
  const { subscribe, getSnapshot } = useMemo(() => openDocument(client, key), [client, key]);
  return useSyncExternalStore(subscribe, getSnapshot, getSnapshot);
}
