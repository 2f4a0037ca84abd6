// The board: a shared text, counters, a list, and who is here. All of it can be changed without a connection.
import { DatasoleClient } from 'datasole/client';

import { $, count, differ, make, name, openConnection, tell, visitor } from './connection.js';
import { openEditor } from './editor.js';

/** After a loss of the connection, until all that was done meanwhile has arrived. */
let returning;

const client = openConnection(DatasoleClient, {
  away: 60_000,
  cut: 'Go on: what you do is kept, and merged when the connection is back, in a minute or as soon as you try.',
  connected(gone) {
    returning = gone && { gone, changes: pending() };
    if (gone) arrived();
    else tell('Connected', 'Open this page in a second tab, cut one of the two, and change both.');
  },
});

// --- what is not yet saved ---

const likes = client.crdt.counter('demo:likes');
const coffee = client.crdt.counter('demo:coffee');
const todo = client.crdt.set('demo:todo');
const editor = openEditor(client, 'demo:notes', $('editor'), (undo, redo) => {
  $('undo').disabled = !undo;
  $('redo').disabled = !redo;
});

function pending() {
  return client.crdt.pending + editor.provider.pending;
}

function showPending() {
  const changes = pending();
  $('saved').textContent = changes ? `${changes.toLocaleString('en')} not yet saved` : 'all saved';
  $('saved').classList.toggle('unsaved', changes > 0);
  arrived();
}

/** Says that what was done without a connection has arrived. */
function arrived() {
  if (!returning || pending()) return;
  const { gone, changes } = returning;
  returning = undefined;
  if (changes) tell(`Merged: ${count(changes, 'change')} of yours`, `After ${gone}. The server has them all, and this page has what the others did.`);
  else tell('Back', `After ${gone}. There was nothing of yours to send, and this page has what the others did.`);
}

client.crdt.onPending(showPending);
editor.provider.on('pending', showPending);

addEventListener('beforeunload', (event) => {
  if (pending()) event.preventDefault();
});

// --- the text ---

$('undo').addEventListener('click', () => editor.undo());
$('redo').addEventListener('click', () => editor.redo());

// --- who is here ---

const room = client.presence('demo');

let names = 0;

function introduce() {
  const { name, hue } = visitor;
  room.join({ name, hue, color: colorOf(hue) });
  // The editor draws a cursor anew when its colour changes, not when its name does.
  const shade = hue + ++names / 1e6;
  editor.introduce({ name, color: colorOf(shade), colorLight: colorOf(shade, 0.25) });
}

/** Whatever the hue, white text is readable on it, and it is on light and on dark ground. */
function colorOf(hue, alpha = 1) {
  return `oklch(0.53 0.14 ${hue} / ${alpha})`;
}

room.subscribe((members) => {
  // Of two who are alike, one becomes another.
  const self = members.find((member) => member.self);
  if (self && differ(members.filter(({ id }) => id < self.id).map(({ value }) => value))) introduce();
  const chips = members.map(({ value, self }) => {
    const shown = String(value?.name ?? 'Somebody');
    const chip = make('li');
    make('i', '', chip).style.setProperty('--color', value?.color ?? colorOf(0));
    make('b', '', chip, shown);
    if (self) make('span', '', chip, 'you');
    return [!self, shown, chip];
  });
  chips.sort(([a, one], [b, other]) => a - b || one.localeCompare(other));
  $('people').replaceChildren(...chips.map(([, , chip]) => chip));
});

// --- the counters ---

likes.subscribe((value) => ($('likes').textContent = value.toLocaleString('en')));
coffee.subscribe((value) => ($('coffee').textContent = value.toLocaleString('en')));
$('like').addEventListener('click', () => likes.increment());
$('more').addEventListener('click', () => coffee.increment());
$('less').addEventListener('click', () => coffee.decrement());

// --- the list ---

todo.subscribe((items) => {
  $('todo').replaceChildren(...items.map(item));
  $('todo-empty').hidden = items.length > 0;
});

function item(value) {
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  const line = make('li');
  const done = make('button', '', line);
  done.type = 'button';
  done.setAttribute('aria-label', `Done: ${text}`);
  done.addEventListener('click', () => {
    todo.delete(value);
    // What comes under the pointer now was not pointed at.
    $('todo').classList.add('still');
    const again = make('button', '', undefined, 'Undo');
    again.type = 'button';
    again.addEventListener('click', () => {
      todo.add(value);
      $('todo-done').replaceChildren();
    });
    $('todo-done').replaceChildren(`Done: ${text}`, again);
  });
  make('span', '', line, text);
  return line;
}

$('todo').addEventListener('pointermove', () => $('todo').classList.remove('still'));

$('add').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = $('item').value.trim();
  if (text) todo.add(text);
  $('item').value = '';
});

name(introduce);
introduce();

/** To play with in the console. */
globalThis.board = { client, likes, coffee, todo, room, text: editor.text };
