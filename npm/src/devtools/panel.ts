/** The panel `<datasole-devtools>`. All of it is in a shadow root, with a style sheet that needs no exception from a page's policy. */
import type { DatasoleClient } from '../slim.js';
import type { Status } from '../status.js';
import { CLIENTS_CHANGED, shown } from '../development.js';
import { make } from './dom.js';
import { STYLE } from './style.js';
import { saveSession, toolsOf } from './tools.js';
import { text, Tree } from './tree.js';
import { watchOf, type Line, type Watch, type Watched } from './watch.js';

const VIEWS = ['Connection', 'Streams', 'Log', 'Pending'] as const;
type View = (typeof VIEWS)[number];

/** Between two looks at what has changed, milliseconds; and at times that pass. */
const LOOK_MS = 100;
const TICK_MS = 1_000;
/** The latency of the button. */
const LATENCY_MS = 500;

/** Defines the element, where there are elements. */
export function defineElement(): void {
  if (typeof customElements !== 'object' || customElements.get('datasole-devtools')) return;
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(STYLE);

  customElements.define(
    'datasole-devtools',
    class extends HTMLElement {
      #panel?: Panel;

      connectedCallback(): void {
        const root = this.shadowRoot ?? this.attachShadow({ mode: 'open' });
        root.adoptedStyleSheets = [sheet];
        this.#panel = new Panel(root, () => this.remove());
      }

      disconnectedCallback(): void {
        this.#panel?.end();
        this.shadowRoot!.replaceChildren();
      }
    },
  );
}

class Panel {
  readonly #body: HTMLElement;
  readonly #tabs: HTMLButtonElement[];
  readonly #state: HTMLElement;
  readonly #choice: HTMLSelectElement;
  readonly #offline: HTMLButtonElement;
  readonly #slow: HTMLButtonElement;
  readonly #note: HTMLElement;
  readonly #timer: ReturnType<typeof setInterval>;
  readonly #trees = new Map<string, Tree>();
  #view: View = 'Connection';
  #client?: DatasoleClient<any>;
  /** The clients to choose from. */
  #clients: readonly DatasoleClient<any>[] = [];
  /** Those that are watched, and what ends that. */
  readonly #watched = new Map<DatasoleClient<any>, () => void>();
  /** The stream whose value is shown. */
  #selected = '';
  #filter = '';
  #due = false;
  /** A button of the pointer is down: what is being clicked must not be replaced. */
  #held = false;
  readonly #end = new AbortController();

  constructor(root: ShadowRoot, close: () => void) {
    const panel = make('section', 'panel');
    panel.setAttribute('aria-label', 'datasole devtools');
    const head = make('header', '', panel);
    this.#state = make('p', 'state', head);
    this.#choice = make('select', '', head);
    this.#choice.setAttribute('aria-label', 'Client');
    this.#choice.onchange = () => this.#choose(this.#clients[this.#choice.selectedIndex]);
    const tools = make('div', 'tools', head);
    tools.setAttribute('role', 'toolbar');
    tools.setAttribute('aria-label', 'Network and session');
    this.#button(tools, 'Drop', 'Lose this connection now', () => this.#simulate({ drop: true }));
    this.#offline = this.#button(tools, 'Offline', 'No connection can be made', () => this.#simulate({ offline: !this.#network.offline }));
    this.#slow = this.#button(tools, `${LATENCY_MS} ms`, 'Messages and answers take longer', () =>
      this.#simulate({ latency: this.#network.latency ? 0 : LATENCY_MS }),
    );
    this.#button(tools, 'Save session', 'A file that `datasole replay` does again', () => void this.#save());
    const fold = this.#button(head, '▾', 'Smaller', () => {
      const folded = panel.classList.toggle('folded');
      fold.textContent = folded ? '▴' : '▾';
      fold.ariaLabel = fold.title = folded ? 'Larger' : 'Smaller';
      this.#changed();
    });
    this.#button(head, '×', 'Close', close);
    const list = make('div', 'tabs', panel);
    list.setAttribute('role', 'tablist');
    this.#tabs = VIEWS.map((view) => {
      const tab = make('button', '', list, view);
      tab.setAttribute('role', 'tab');
      tab.id = `tab-${view}`;
      tab.setAttribute('aria-controls', 'view');
      tab.onclick = () => this.#look(view);
      return tab;
    });
    list.onkeydown = ({ key }) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
      if (!step) return;
      this.#look(VIEWS[(VIEWS.indexOf(this.#view) + step + VIEWS.length) % VIEWS.length]!);
      this.#tabs[VIEWS.indexOf(this.#view)]!.focus();
    };
    this.#note = make('p', 'note', panel);
    this.#note.setAttribute('role', 'status');
    this.#body = make('div', 'view', panel);
    this.#body.id = 'view';
    this.#body.setAttribute('role', 'tabpanel');
    this.#body.tabIndex = 0;
    root.replaceChildren(panel);
    const { signal } = this.#end;
    panel.addEventListener('pointerdown', () => (this.#held = true));
    const release = () => {
      this.#held = false;
      this.#changed();
    };
    for (const event of ['pointerup', 'pointercancel']) addEventListener(event, release, { signal });
    this.#look('Connection');
    addEventListener(CLIENTS_CHANGED, () => this.#meet(), { signal });
    this.#timer = setInterval(() => this.#changed(), TICK_MS);
    this.#meet();
  }

  end(): void {
    this.#end.abort();
    clearInterval(this.#timer);
    for (const stop of this.#watched.values()) stop();
  }

  get #network() {
    return this.#client ? toolsOf(this.#client).network : {};
  }

  #button(parent: Element, label: string, title: string, action: () => void): HTMLButtonElement {
    const button = make('button', '', parent, label);
    button.type = 'button';
    button.title = title;
    if (!/\w/.test(label)) button.ariaLabel = title;
    button.onclick = action;
    return button;
  }

  /** Finds clients that are new, and lets go of those that have ended. */
  #meet(): void {
    const clients = (this.#clients = shown());
    for (const client of clients) this.#watch(client);
    if (!this.#client) this.#choose(clients[0]);
    this.#choice.replaceChildren(...clients.map((_, at) => make('option', '', undefined, `client ${at + 1}`)));
    // One that has ended is shown until another is chosen.
    this.#choice.hidden = clients.every((client) => client === this.#client);
    this.#choice.selectedIndex = clients.indexOf(this.#client!);
    this.#letGo();
    this.#changed();
  }

  #watch(client: DatasoleClient<any>): void {
    if (!this.#watched.has(client)) this.#watched.set(client, watchOf(client).join(() => client === this.#client && this.#changed()));
  }

  #letGo(): void {
    for (const [client, stop] of this.#watched) {
      if (client === this.#client || this.#clients.includes(client)) continue;
      stop();
      this.#watched.delete(client);
    }
  }

  #choose(client: DatasoleClient<any> | undefined): void {
    this.#client = client;
    this.#trees.clear();
    this.#selected = '';
    this.#letGo();
    this.#look(this.#view);
  }

  #changed(): void {
    if (this.#due || this.#held || this.#end.signal.aborted) return;
    this.#due = true;
    setTimeout(() => {
      this.#due = false;
      if (!this.#held && !this.#end.signal.aborted) this.#show();
    }, LOOK_MS);
  }

  #look(view: View): void {
    this.#view = view;
    for (const tab of this.#tabs) {
      const chosen = tab.textContent === view;
      tab.setAttribute('aria-selected', `${chosen}`);
      tab.tabIndex = chosen ? 0 : -1;
    }
    this.#body.setAttribute('aria-labelledby', `tab-${view}`);
    this.#body.replaceChildren();
    this.#show();
  }

  #simulate(change: { drop?: boolean; offline?: boolean; latency?: number }): void {
    if (!this.#client) return;
    toolsOf(this.#client).simulate(change);
    this.#show();
  }

  async #save(): Promise<void> {
    if (!this.#client) return;
    try {
      const file = new Blob([await saveSession(this.#client)], { type: 'application/jsonl' });
      const link = make('a');
      link.href = URL.createObjectURL(file);
      link.download = `session-${new Date().toISOString().replace(/\D/g, '').slice(0, 14)}.jsonl`;
      link.click();
      URL.revokeObjectURL(link.href);
      this.#note.textContent = `${link.download} saved: tokens are left out, payloads are in it`;
    } catch (error) {
      this.#note.textContent = (error as Error).message;
    }
  }

  #show(): void {
    const client = this.#client;
    if (!client) {
      this.#state.textContent = 'No client';
      this.#body.replaceChildren(make('p', 'empty', undefined, 'No client has connected. In development builds they show up by themselves; give others to openDevtools(client).'));
      return;
    }
    const watch = watchOf(client);
    const { status } = watch.timeline.at(-1)!;
    this.#state.textContent = status.state;
    this.#state.dataset.state = status.state;
    this.#offline.ariaPressed = `${!!this.#network.offline}`;
    this.#slow.ariaPressed = `${!!this.#network.latency}`;
    const waiting = watch.calls.size + [...watch.streams.values()].reduce((sum, { pending }) => sum + (pending ?? 0), 0);
    this.#tabs[VIEWS.indexOf('Pending')]!.dataset.count = waiting ? `${waiting}` : '';
    if (this.#body.getClientRects().length) this[`show${this.#view}`](watch);
  }

  showConnection({ timeline, count }: Watch): void {
    const rows = [...timeline].reverse();
    const items = rows.map(({ at, status }, index) => {
      const item = make('li');
      item.dataset.state = status.state;
      make('time', '', item, clock(at));
      make('b', '', item, status.state);
      make('span', '', item, [...details(status), `for ${span((rows[index - 1]?.at ?? Date.now()) - at)}`].join(', '));
      return item;
    });
    const list = make('ol', 'timeline');
    list.replaceChildren(...items);
    this.#body.replaceChildren(make('p', 'facts', undefined, `${count.sent} messages to the worker, ${count.came} from it, since the panel watches`), list);
  }

  showStreams(watch: Watch): void {
    const streams = [...watch.streams].filter(([, { left, error }]) => !left || error);
    for (const name of this.#trees.keys()) if (!watch.streams.has(name)) this.#trees.delete(name);
    if (!streams.length) return this.#body.replaceChildren(make('p', 'empty', undefined, 'No stream has been heard of since the panel watches.'));
    if (!streams.some(([name]) => name === this.#selected)) this.#selected = streams[0]![0];
    let list = this.#body.querySelector('.streams');
    if (!list) {
      this.#body.replaceChildren();
      const split = make('div', 'split', this.#body);
      list = make('div', 'streams', split);
      make('div', 'value', split);
    }
    const rows = new Map([...list.children].map((row) => [row.getAttribute('data-name'), row as HTMLButtonElement]));
    arrange(list, streams.map(([name, stream]) => this.#streamRow(rows.get(name), name, stream, watch)));
    let tree = this.#trees.get(this.#selected);
    if (!tree) this.#trees.set(this.#selected, (tree = new Tree()));
    tree.show(watch.value(watch.streams.get(this.#selected)!));
    const place = this.#body.querySelector('.value')!;
    if (place.firstChild !== tree.element) place.replaceChildren(tree.element);
  }

  #streamRow(row = make('button', 'stream'), name: string, stream: Watched, watch: Watch): HTMLElement {
    const { kind, key, seq, at, phase, pending, error } = stream;
    row.dataset.name = name;
    row.ariaPressed = `${name === this.#selected}`;
    row.onclick = () => {
      this.#selected = name;
      this.#show();
    };
    const parts = [make('b', '', undefined, key)];
    const readers = watch.readers(stream);
    const facts = [
      kind,
      seq !== undefined && `at ${seq}`,
      readers !== undefined && `${readers} ${readers === 1 ? 'reader' : 'readers'}`,
      `${watch.rate(stream).toFixed(1)}/s`,
      phase,
      pending && `${pending} pending`,
      at && `${span(Date.now() - at)} ago`,
    ];
    parts.push(make('span', '', undefined, facts.filter(Boolean).join(' · ')));
    if (error) parts.push(make('em', '', undefined, error));
    row.replaceChildren(...parts);
    return row;
  }

  showLog(watch: Watch): void {
    let list = this.#body.querySelector('ol');
    if (!list) {
      this.#body.replaceChildren();
      const bar = make('div', 'bar', this.#body);
      const filter = make('input', '', bar);
      filter.placeholder = 'Filter: a type, a name';
      filter.ariaLabel = 'Filter';
      filter.value = this.#filter;
      filter.oninput = () => {
        this.#filter = filter.value.trim().toLowerCase();
        this.#show();
      };
      const pause = this.#button(bar, 'Pause', 'Write nothing more', () => {
        watch.paused = !watch.paused;
        pause.ariaPressed = `${watch.paused}`;
      });
      pause.ariaPressed = `${watch.paused}`;
      this.#button(bar, 'Clear', 'Forget what was written', () => {
        watch.log.length = 0;
        this.#show();
      });
      list = make('ol', 'log', this.#body);
    }
    const wanted = watch.log.filter(({ type, name }) => `${type} ${name}`.toLowerCase().includes(this.#filter)).slice(-200);
    const shown = new Map([...list.children].map((item) => [lines.get(item), item]));
    arrange(list, wanted.reverse().map((line) => (shown.get(line) as HTMLElement) ?? logItem(line)));
  }

  showPending(watch: Watch): void {
    const now = Date.now();
    const rows = [
      ...[...watch.calls.values()].map(({ method, at }) => ['call', method, span(now - at)]),
      ...[...watch.streams.values()].filter(({ pending }) => pending).map(({ kind, key, pending }) => [kind, key, `${pending} not stored`]),
    ];
    if (!rows.length) return this.#body.replaceChildren(make('p', 'empty', undefined, 'Nothing waits: every call is answered, every change stored.'));
    const list = make('ul', 'pending');
    for (const [what, name, state] of rows) {
      const item = make('li', '', list);
      make('span', 'kind', item, what);
      make('b', '', item, name);
      make('span', '', item, state);
    }
    this.#body.replaceChildren(list);
  }
}

/** Makes these the children; those that are there already keep focus and what is open in them. */
function arrange(list: Element, items: HTMLElement[]): void {
  items.forEach((item, at) => list.children[at] !== item && list.insertBefore(item, list.children[at] ?? null));
  while (list.children.length > items.length) list.lastElementChild!.remove();
}

/** The lines of log items. */
const lines = new WeakMap<Element, Line>();

function logItem(line: Line): HTMLElement {
  const item = make('li', line.way);
  lines.set(item, line);
  const details = make('details', '', item);
  const summary = make('summary', '', details);
  make('time', '', summary, clock(line.at));
  make('span', 'way', summary, line.way === 'sent' ? '↑' : '↓').ariaLabel = line.way;
  make('b', '', summary, line.type);
  make('span', 'name', summary, line.name);
  make('code', '', summary, text(line.content));
  details.ontoggle = () => details.childElementCount === 1 && make('pre', '', details, JSON.stringify(line.content, null, 2) ?? '');
  return item;
}

/** What is known of a status, for people. */
function details({ reason, attempt, retryInMs, protocol, connectionId }: Status): string[] {
  const { kind, code, httpStatus, message, hint } = reason ?? {};
  return [
    protocol && `version ${protocol}`,
    connectionId && `id ${connectionId}`,
    attempt && `attempt ${attempt}`,
    retryInMs !== undefined && `next in ${span(retryInMs)}`,
    kind && [kind, code ?? httpStatus, message && `“${message}”`].filter(Boolean).join(' '),
    hint,
  ].filter((part): part is string => !!part);
}

function clock(at: number): string {
  const time = new Date(at);
  return `${time.toTimeString().slice(0, 8)}.${String(time.getMilliseconds()).padStart(3, '0')}`;
}

function span(millis: number): string {
  if (millis < 1_000) return `${Math.round(millis)} ms`;
  return millis < 60_000 ? `${(millis / 1_000).toFixed(1)} s` : `${Math.round(millis / 60_000)} min`;
}
