/** Makes an element, in a parent if there is one. */
export function make<K extends keyof HTMLElementTagNameMap>(name: K, classes = '', parent?: Element, content?: string): HTMLElementTagNameMap[K] {
  const element = document.createElement(name);
  if (classes) element.className = classes;
  if (content !== undefined) element.textContent = content;
  parent?.append(element);
  return element;
}
