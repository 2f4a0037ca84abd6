// The dashboard: a live state, a chat and calls over one connection, and what becomes of them when it is lost.
import { $, clock, count, make, missing, name, openConnection, tell } from './connection.js';

// One of the two clients of the first page: what it needs, and no more.
const pane = new URLSearchParams(location.search).get('pane');
if (pane) {
  document.documentElement.classList.add('pane');
  $('connection-title').textContent = `Client ${pane}`;
  $('cut').textContent = 'Cut';
}

const still = matchMedia('(prefers-reduced-motion: reduce)');

if (window.Datasole) start(Datasole.DatasoleClient);
else missing();

function start(DatasoleClient) {
  /** The dashboard's last value. */
  let board;
  /** What this tab had seen when the connection was lost, until it has caught up. */
  let lost;
  /** Messages that came between the return of the connection and having caught up. */
  let caught = 0;

  const client = openConnection(DatasoleClient, {
    away: pane ? 4000 : 1500,
    cut: 'The server ended this connection, and goes on without it. What changes meanwhile is kept.',
    lost() {
      if (lost) return;
      lost = { board };
      caught = 0;
    },
    connected(gone) {
      $('chat-note').textContent = '';
      if (gone) void returned(lost, gone);
      else tell('Connected', 'All of this page comes over one WebSocket. Open it in a second tab: both stay in step.');
    },
  });

  /** Says how the tab got from what it had seen to where it is. */
  async function returned({ board: before }, gone) {
    try {
      // Answers never overtake what came before them: after this one, everything missed has arrived.
      await client.rpc('echo');
    } catch {
      return; // lost again
    }
    lost = undefined;
    const messages = caught ? ` and ${count(caught, 'chat message')}` : '';
    if (!before || !board) return tell('Connected', `After ${gone}.`);
    const another = board.instance.startedAt !== before.instance.startedAt;
    // What no patch has touched is still the same object, unless the whole value came anew.
    if (board.regions !== before.regions) {
      return another
        ? tell('New epoch: fresh snapshot', `After ${gone} this is another server. Its history cannot go on from the old one’s, so nothing was replayed: the state came whole.`)
        : tell('Resumed: fresh snapshot', `After ${gone} the history did not reach back far enough, so the state came whole.`);
    }
    const patches = board.beat - before.beat;
    if (patches) bands.push({ from: before.beat, to: board.beat });
    draw();
    const who = another ? 'Another server went on with what the old one has on disk, and this tab' : 'This tab';
    tell(`Resumed: ${count(patches, 'patch', 'patches')}${messages} replayed`, `${who} went on where it was, after ${gone}. No snapshot was needed, and nothing was lost.`);
  }

  $('restart').addEventListener('click', () => client.emit('demo:restart'));

  // --- the dashboard ---

  const POINTS = 120;
  /** Beats that were replayed: shown behind the curve. */
  let bands = [];
  const cells = [];

  client.subscribeState('dashboard', (value) => {
    if (!value) return;
    if (board?.regions !== value.regions) bands = [];
    const { server, instance } = value;
    if (server !== board?.server) {
      $('connections').textContent = server.connections;
      $('messages-in').textContent = server.messagesIn.toLocaleString('en');
      $('bytes-out').textContent = bytes(server.bytesOut);
      const minutes = Math.floor(server.uptime / 60);
      $('instance').textContent = `no. ${instance.number}, up ${minutes}:${String(server.uptime % 60).padStart(2, '0')}`;
    }
    $('beat').textContent = value.beat.toLocaleString('en');
    $('total').textContent = value.series.at(-1).toLocaleString('en');
    // A row that did not change is the same object as before.
    value.rows.forEach((row, at) => row !== board?.rows[at] && showRow(at, row, board?.rows[at]));
    board = value;
    draw();
  });

  function showRow(at, row, before) {
    const shown = (cells[at] ??= makeRow(at, row));
    shown.row.classList.toggle('off', !row.on);
    shown.on.setAttribute('aria-checked', row.on);
    for (const column of ['rps', 'p95', 'cpu']) {
      if (row[column] === before?.[column]) continue;
      shown[column].textContent = row.on ? row[column] : '–';
      if (before) flash(shown[column].closest('td'));
    }
    shown.load.style.setProperty('--share', row.on ? row.cpu : 0);
    shown.load.parentElement.classList.toggle('hot', row.cpu >= 75);
  }

  function makeRow(at, { name, region }) {
    const row = $('fleet').insertRow();
    const head = row.appendChild(document.createElement('th'));
    head.scope = 'row';
    head.textContent = name;
    const where = row.insertCell();
    where.className = 'region';
    where.textContent = region;
    const rps = row.insertCell();
    const p95 = row.insertCell();
    rps.className = p95.className = 'number';
    const load = make('div', 'load', row.insertCell());
    const cpu = make('span', '', load);
    const bar = make('i', '', load);
    const last = row.insertCell();
    last.className = 'last';
    const on = make('button', '', last);
    on.type = 'button';
    on.setAttribute('role', 'switch');
    on.setAttribute('aria-label', `${name} in ${region}`);
    on.addEventListener('click', () => {
      const params = { row: at, on: on.getAttribute('aria-checked') !== 'true' };
      client.rpc('fleet:switch', params).catch((error) => tell('The switch did not move', error.message));
    });
    return { row, rps, p95, cpu, load: bar, on };
  }

  function flash(cell) {
    if (still.matches || document.hidden) return;
    cell.animate([{ backgroundColor: 'var(--sun-wash)' }, { backgroundColor: 'transparent' }], 1100);
  }

  /** The curve over 600 × 120: the newest point at the right edge. */
  function draw() {
    const { series, beat } = board;
    const low = Math.min(...series) * 0.98;
    const span = Math.max(...series) * 1.02 - low || 1;
    const x = (n) => (600 * (1 - (beat - n) / (POINTS - 1))).toFixed(1);
    const y = (value) => (114 - (104 * (value - low)) / span).toFixed(1);
    const first = beat - series.length + 1;
    const line = series.map((value, at) => `${x(first + at)},${y(value)}`).join('L');
    $('line').setAttribute('d', `M${line}`);
    const tip = `${x(beat)},${y(series.at(-1))}`;
    $('newest').setAttribute('d', `M${tip}L${tip}`);
    $('area').setAttribute('d', `M${x(first)},120L${line}L600,120Z`);

    bands = bands.filter(({ to }) => to > beat - POINTS);
    $('legend').hidden = bands.length === 0;
    $('bands').replaceChildren(
      ...bands.map(({ from, to }) => {
        const band = document.createElementNS('http://www.w3.org/2000/svg', 'rect');
        const left = Math.max(0, x(from));
        for (const [name, value] of Object.entries({ class: 'band', x: left, y: 0, width: x(to) - left, height: 120 })) {
          band.setAttribute(name, value);
        }
        return band;
      }),
    );
  }

  function bytes(n) {
    const [unit, size] = n < 1e6 ? ['kB', 1e3] : ['MB', 1e6];
    return `${(n / size).toFixed(n < 1e5 || n >= 1e6 ? 1 : 0)} ${unit}`;
  }

  // --- the chat ---

  const tab = sessionStorage.tab || (sessionStorage.tab = crypto.getRandomValues(new Uint32Array(2)).join('-'));
  const shown = new Set();
  name();

  client.on('chat:message', ({ data }) => {
    const late = lost !== undefined && data.tab !== tab;
    if (late) caught += 1;
    show(data, late);
  });
  client.onMissed(() => {
    append(divider('A new history begins here: what was said while this tab was away is not part of it', 'missed'));
  });

  function show(message, late) {
    if (shown.has(message.id)) return;
    shown.add(message.id);
    const item = make('li', [message.tab === tab && 'mine', late && 'caught'].filter(Boolean).join(' '));
    item.dataset.id = message.id;
    const by = make('p', 'by', item);
    make('b', '', by).textContent = message.from;
    make('time', '', by).textContent = clock(message.id);
    if (late) make('em', '', by).textContent = 'while you were away';
    make('p', 'said', item).textContent = message.text;
    const later = [...$('messages').children].find(({ dataset }) => Number(dataset.id) > message.id);
    append(item, later);
  }

  function divider(text, kind = '') {
    const item = make('li', `break ${kind}`);
    item.textContent = text;
    return item;
  }

  /** Follows the newest message, unless somebody is reading older ones. */
  function append(item, before = null) {
    const list = $('messages');
    const follow = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
    list.insertBefore(item, before);
    while (list.children.length > 200) list.firstElementChild.remove();
    if (follow) list.scrollTop = list.scrollHeight;
  }

  $('chat').addEventListener('submit', (event) => {
    event.preventDefault();
    const message = { tab, from: $('name').value, text: $('text').value };
    try {
      client.emit('chat:message', message, { queue: true });
      $('text').value = '';
      const waits = client.getConnectionState() !== 'connected';
      $('chat-note').textContent = waits ? 'Not connected: goes out when the connection is back.' : '';
    } catch (error) {
      $('chat-note').textContent = error.message;
    }
  });

  // --- calls ---

  const PARAMS = {
    add: ({ a, b }) => ({ a: Number(a), b: Number(b) }),
    echo: ({ text }) => text,
    slow: ({ ms }) => ({ ms: Number(ms) }),
    fail: () => null,
  };

  for (const form of document.querySelectorAll('.calls form')) {
    const { method } = form.dataset;
    const button = form.querySelector('button');
    let running;
    form.addEventListener('submit', async (event) => {
      event.preventDefault();
      if (running) return running.abort();
      running = new AbortController();
      const { signal } = running;
      const answer = answered(method);
      const began = performance.now();
      // Most answers are there before anybody could think of cancelling.
      const patience = setTimeout(() => (button.textContent = 'Cancel'), 150);
      const params = PARAMS[method](Object.fromEntries(new FormData(form)));
      const [text, failed] = await client
        .rpc(method, params, { signal, timeout: 90_000 })
        .then((result) => [JSON.stringify(result), false])
        .catch((error) => [signal.aborted ? 'cancelled' : `${error.message} (${error.code})`, true]);
      clearTimeout(patience);
      running = undefined;
      button.textContent = 'Call';
      answer(text, failed, millis(performance.now() - began));
    });
  }

  /** A line for a call's answer, the newest on top, and what fills it in. */
  function answered(method) {
    const line = document.createElement('li');
    make('code', '', line).textContent = method;
    const result = make('span', '', line);
    const time = make('span', '', line);
    result.textContent = '…';
    $('answers').prepend(line);
    while ($('answers').children.length > 20) $('answers').lastElementChild.remove();
    return (text, failed, took) => {
      line.classList.toggle('failed', failed);
      result.textContent = text;
      time.textContent = took;
    };
  }

  function millis(time) {
    return `${time.toFixed(time < 10 ? 1 : 0)} ms`;
  }

  client
    .connect()
    .then(() => client.rpc('chat:recent'))
    .then((messages) => messages.forEach((message) => show(message, false)))
    .catch(() => {}); // told by the status
}
