// What the demo's pages share: a client whose connection is shown at the top of the page, and can be cut.

/** @type {(id: string) => any} */
export const $ = (id) => document.getElementById(id);

/** A new element at the end of `parent`. */
export function make(tag, className, parent, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return parent ? parent.appendChild(element) : element;
}

export function count(n, one, many = `${one}s`) {
  return `${n.toLocaleString('en')} ${n === 1 ? one : many}`;
}

export function clock(time) {
  return new Date(time).toLocaleTimeString('en-GB');
}

/** The line that says what just happened; the one before it moves to the timeline. */
export function tell(story, detail) {
  const line = make('li');
  make('time', '', line, clock(Date.now()));
  line.append(story);
  $('timeline').prepend(line);
  while ($('timeline').children.length > 6) $('timeline').lastElementChild.remove();
  $('story').textContent = story;
  $('detail').textContent = detail;
}

/** Says that the page has no client to work with. */
export function missing() {
  tell('The client did not load', 'This server was built without its browser files: run `cargo xtask build` first.');
  show('disconnected');
}

/** The panel that shows what happens on a connection. */
const TOOLS = '/__ds/datasole-devtools.mjs';
/** The close code of a cut. */
const CUT = 4000;
/** How long a connection that was lost otherwise stays away at least: time to see it, in milliseconds. */
const GLANCE = 1500;

/** What everybody is called until they say otherwise. Each name has a hue of its own. */
const NAMES = ['Heron', 'Lynx', 'Marten', 'Plover', 'Otter', 'Ibex', 'Swift', 'Vole', 'Newt', 'Crane', 'Stoat', 'Wren'];

/** The name and the hue of the visitor, the same in all pages of this tab, and after a reload. */
export const visitor = read() ?? invent();

function read() {
  try {
    const { name, hue, chosen } = JSON.parse(sessionStorage.visitor);
    return typeof name === 'string' && Number.isFinite(hue) ? { name, hue, chosen } : undefined;
  } catch {
    return undefined;
  }
}

/** A name and a hue that nobody of `others` has, as long as there are some. */
function invent(others = []) {
  const free = NAMES.map((name, at) => ({ name, hue: (at * 360) / NAMES.length })).filter(
    ({ name, hue }) => !others.some((other) => other?.name === name || other?.hue === hue),
  );
  const drawn = crypto.getRandomValues(new Uint32Array(2));
  return free[drawn[0] % free.length] ?? { name: `${NAMES[drawn[0] % NAMES.length]} ${drawn[1] % 1000}`, hue: drawn[1] % 360 };
}

/** Takes another hue, and another name unless the visitor chose it, if one of `others` was here before with the same. True if so. */
export function differ(others) {
  if (!others.some((other) => other?.hue === visitor.hue)) return false;
  const { name, hue } = invent(others);
  change({ hue, name: visitor.chosen ? visitor.name : name });
  return true;
}

function change(changes) {
  Object.assign(visitor, changes);
  sessionStorage.visitor = JSON.stringify(visitor);
  $('name').value = visitor.name;
}

/** Shows the visitor's name, to be changed. `renamed` is told when it was. */
export function name(renamed = () => {}) {
  change({});
  $('name').addEventListener('change', () => {
    change({ name: $('name').value.trim() || 'Nobody', chosen: true });
    renamed();
  });
}

/**
 * Makes the page's client, shows its connection and connects it.
 *
 * Once the visitor has cut it, the connection stays away for `away` milliseconds, or until the visitor wants it back: time
 * to do something meanwhile; `cut` is what to say of that. `lost` and `connected` are told, the latter with how long it was
 * lost, unless it is the first connection.
 */
export function openConnection(DatasoleClient, { away, cut, lost, connected }) {
  /** When the connection was lost, until it is back; and when it may come back. */
  let since;
  let until = 0;
  /** When the next attempt begins, and when waiting for it began. */
  let wait;
  /** Ends the wait that this page adds to the client's own. */
  let hurry = () => {};

  const client = new DatasoleClient({
    url: location.origin,
    record: true,
    // Asked before every attempt. This server wants no token, but the client waits for one.
    getToken: async () => {
      const left = until - performance.now();
      if (left > 0) {
        await new Promise((resolve) => {
          setTimeout((hurry = resolve), left);
          countFrom(left);
        });
        countFrom();
      }
      return '';
    },
  });

  client.onStatus((status) => {
    const { state, reason } = status;
    const online = state === 'connected';
    show(state);
    $('protocol').textContent = online ? `version ${status.protocol}` : '–';
    $('connection-id').textContent = (online && status.connectionId) || '–';
    $('attempt').textContent = status.attempt ?? '–';
    for (const button of document.querySelectorAll('#cut, #restart')) button.disabled = !online;
    $('retry').hidden = state !== 'reconnecting' && state !== 'disconnected';
    $('retry').textContent = state === 'reconnecting' ? 'Try now' : 'Connect';
    countFrom(status.retryInMs);

    if (state === 'reconnecting' && since === undefined) {
      since = performance.now();
      until = since + (reason.code === CUT ? away : GLANCE);
      lost?.();
      tell(...cause(reason));
    }
    if (state === 'disconnected' && reason.kind !== 'idle') tell('Not connected', reason.message);
    if (online) {
      const gone = since && (performance.now() - since) / 1000;
      since = undefined;
      connected?.(gone && `${gone.toFixed(1)} s`);
    }
  });

  function cause({ code, kind, message }) {
    if (code === CUT) return ['Cut', cut];
    if (code === 1001) return ['The server went away', 'It said goodbye (close code 1001), and another takes its place.'];
    return ['Connection lost', [code && `Close code ${code}`, message || kind].filter(Boolean).join(': ')];
  }

  function countFrom(left) {
    const now = performance.now();
    wait = left === undefined ? undefined : { from: now, until: now + left };
    countdown();
  }

  function countdown() {
    const left = wait ? wait.until - performance.now() : 0;
    const trying = $('connection').dataset.state === 'reconnecting';
    $('retry-in').textContent = left > 0 ? `in ${(left / 1000).toFixed(1)} s` : trying ? 'under way' : '–';
    $('wait').style.transform = `scaleX(${left > 0 ? left / (wait.until - wait.from) : 0})`;
    if (left > 0) requestAnimationFrame(countdown);
  }

  function connect() {
    client.connect().catch(() => {}); // told by the status
  }

  $('devtools').addEventListener('click', async () => {
    const { openDevtools } = await import(TOOLS);
    openDevtools(client);
  });
  $('cut').addEventListener('click', () => client.emit('demo:cut'));
  $('retry').addEventListener('click', () => {
    until = 0;
    hurry();
    connect();
  });
  connect();
  return client;
}

function show(state) {
  $('connection').dataset.state = state;
  $('state').textContent = state;
}
