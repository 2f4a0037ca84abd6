/** Objects by name, the same one for a name as long as somebody has it. */
export class Kept<T extends object> {
  readonly #refs = new Map<string, WeakRef<T>>();
  readonly #gone = new FinalizationRegistry((name: string) => this.#refs.get(name)?.deref() ?? this.#refs.delete(name));

  get(name: string, make: () => T): T {
    let found = this.#refs.get(name)?.deref();
    if (!found) {
      found = make();
      this.#refs.set(name, new WeakRef(found));
      this.#gone.register(found, name);
    }
    return found;
  }
}
