/** Values as trees that open and close, whose changed parts flash. */
import { make } from './dom.js';

/** The most members of a container that are shown. */
const MAX_MEMBERS = 200;
/** The most characters of a text. */
const MAX_TEXT = 400;

/** A tree of one value. What is open stays open from value to value. */
export class Tree {
  readonly element = make('div', 'tree');
  readonly #open = new Set(['']);
  #before: unknown;

  /** Shows a value; parts that are not those shown before flash. */
  show(value: unknown): void {
    if (value === this.#before && this.element.firstChild) return;
    const first = !this.element.firstChild;
    const focused = (this.element.getRootNode() as Partial<ShadowRoot>).activeElement?.getAttribute('data-path');
    this.element.replaceChildren(this.#node('', '', value, first ? value : this.#before));
    this.#before = value;
    if (typeof focused === 'string') this.element.querySelector<HTMLElement>(`[data-path="${CSS.escape(focused)}"]`)?.focus();
  }

  #node(path: string, name: string, value: unknown, before: unknown): HTMLElement {
    if (!isContainer(value)) {
      const leaf = make('div', value === before ? 'leaf' : 'leaf changed');
      if (name) make('span', 'name', leaf, `${name}: `);
      make('span', typeof value, leaf, text(value));
      return leaf;
    }
    const node = make('details', '');
    const size = Array.isArray(value) ? `[${value.length}]` : value instanceof Uint8Array ? `${value.length} bytes` : `{${Object.keys(value).length}}`;
    const summary = make('summary', value === before ? '' : 'changed', node, name ? `${name} ` : '');
    make('span', 'size', summary, size);
    summary.dataset.path = path;
    node.open = this.#open.has(path);
    const fill = () => {
      const members = value instanceof Uint8Array ? [] : Object.entries(value);
      for (const [key, part] of members.slice(0, MAX_MEMBERS)) {
        node.append(this.#node(`${path}/${key}`, key, part, isContainer(before) ? (before as any)[key] : undefined));
      }
      if (members.length > MAX_MEMBERS) make('div', 'size', node, `… ${members.length - MAX_MEMBERS} more`);
    };
    if (node.open) fill();
    node.addEventListener('toggle', () => {
      if (node.open === this.#open.has(path)) return;
      if (!node.open) this.#open.delete(path);
      else this.#open.add(path), node.childElementCount === 1 && fill();
    });
    return node;
  }
}

function isContainer(value: unknown): value is object {
  return typeof value === 'object' && value !== null;
}

/** A value in one line, cut where it is long. */
export function text(value: unknown): string {
  const json = value instanceof Uint8Array ? `${value.length} bytes` : (JSON.stringify(value) ?? 'nothing');
  return json.length > MAX_TEXT ? `${json.slice(0, MAX_TEXT)}…` : json;
}
