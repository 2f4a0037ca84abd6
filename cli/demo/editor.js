// The shared editor: a Y.Text in CodeMirror, with everybody's cursors, names and selections.
import { defaultKeymap } from '@codemirror/commands';
import { EditorState } from '@codemirror/state';
import { EditorView, drawSelection, dropCursor, keymap, placeholder } from '@codemirror/view';
import { DatasoleProvider } from 'datasole/yjs';
import { yCollab, yUndoManagerKeymap } from 'y-codemirror.next';
import * as Y from 'yjs';

/** In a shadow root CodeMirror's style sheet is an object, which needs no exception from the page's policy. */
const THEME = EditorView.theme({
  '&': { height: '100%', color: 'var(--ink)', fontSize: '15px' },
  '&.cm-focused': { outline: 'none' },
  '.cm-scroller': { fontFamily: 'inherit', lineHeight: '2', overflow: 'auto' },
  '.cm-content': { padding: '16px 4px', caretColor: 'var(--ink)' },
  '.cm-line': { padding: '0 14px' },
  '.cm-cursor': { borderLeft: '2px solid var(--ink)', marginLeft: '-1px' },
  '.cm-placeholder': { color: 'var(--soft)' },
  '.cm-dropCursor': { borderLeft: '2px solid var(--edge)' },
  '& > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, &.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground': {
    background: 'var(--sun-wash)',
  },
  // Names are always shown, between the lines of text.
  '.cm-ySelectionCaret': { borderWidth: '0 1px' },
  '.cm-ySelectionCaretDot': { display: 'none' },
  '.cm-ySelectionInfo': {
    top: '-1.1em',
    left: '-1px',
    padding: '0 5px',
    borderRadius: '4px 4px 4px 0',
    font: '550 11px/1.1 system-ui, sans-serif',
    opacity: 1,
    transition: 'none',
    maxWidth: '14em',
    overflow: 'hidden',
    textOverflow: 'ellipsis',
    pointerEvents: 'none',
  },
});

/**
 * Opens the document in `parent`. `changed` is told whether there is something to undo, and to redo.
 */
export function openEditor(client, key, parent, changed) {
  const doc = new Y.Doc();
  const text = doc.getText('text');
  const provider = new DatasoleProvider(client, key, doc);
  const undoManager = new Y.UndoManager(text);
  const root = parent.attachShadow({ mode: 'open' });
  const view = new EditorView({
    root,
    parent: root,
    state: EditorState.create({
      doc: text.toString(),
      extensions: [
        EditorView.lineWrapping,
        EditorView.contentAttributes.of({ 'aria-label': 'Notes' }),
        drawSelection(),
        dropCursor(),
        placeholder('Write something. Everyone sees it.'),
        keymap.of([...yUndoManagerKeymap, ...defaultKeymap]),
        yCollab(text, provider.awareness, { undoManager }),
        THEME,
      ],
    }),
  });
  const tell = () => changed(undoManager.canUndo(), undoManager.canRedo());
  for (const event of ['stack-item-added', 'stack-item-popped', 'stack-cleared']) undoManager.on(event, tell);
  return {
    text,
    provider,
    undo: () => undoManager.undo(),
    redo: () => undoManager.redo(),
    /** How the others see this visitor's cursor and selection. */
    introduce: (user) => provider.awareness.setLocalStateField('user', user),
  };
}
