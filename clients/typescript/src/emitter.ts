/** Typed events. A listener that throws keeps neither others from hearing nor whoever tells from going on. */

function tell<Event>(listeners: Iterable<(event: Event) => void>, event: Event): void {
  for (const listener of [...listeners]) {
    try {
      listener(event);
    } catch (error) {
      // The app's fault, not this client's: it surfaces where uncaught errors do.
      void Promise.reject(error);
    }
  }
}

/** Who listens to events of the map `Events`, from a name to what is told. */
export class Emitter<Events> {
  readonly #listeners = new Map<keyof Events, Set<(event: never) => void>>();

  /** Listens; the returned function stops. */
  on<Name extends keyof Events>(name: Name, listener: (event: Events[Name]) => void): () => void {
    let all = this.#listeners.get(name);
    if (!all) this.#listeners.set(name, (all = new Set()));
    all.add(listener);
    return () => void all.delete(listener);
  }

  /** Tells everyone. */
  emit<Name extends keyof Events>(name: Name, event: Events[Name]): void {
    tell((this.#listeners.get(name) ?? []) as Iterable<(event: Events[Name]) => void>, event);
  }
}

/** A value that can be watched, in the shape of React's `useSyncExternalStore`. */
export class Watched<T> {
  readonly #listeners = new Set<() => void>();
  constructor(private value: T) {}

  /** The value now; the same object as long as nothing changed. */
  readonly get = (): T => this.value;

  /** Hears of changes; the returned function stops. */
  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  };

  /** Puts a new value. */
  set(value: T): void {
    if (value === this.value) return;
    this.value = value;
    tell(this.#listeners, undefined);
  }
}
