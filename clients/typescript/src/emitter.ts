/** Typed events. A listener that throws does not keep others from hearing. */

/** Who listens to events of the map `Events`, from a name to what is told. */
export class Emitter<Events> {
  private readonly listeners = new Map<keyof Events, Set<(event: never) => void>>();

  /** Listens; the returned function stops. */
  on<Name extends keyof Events>(name: Name, listener: (event: Events[Name]) => void): () => void {
    let all = this.listeners.get(name);
    if (!all) this.listeners.set(name, (all = new Set()));
    all.add(listener);
    return () => void all.delete(listener);
  }

  /** Tells everyone. */
  emit<Name extends keyof Events>(name: Name, event: Events[Name]): void {
    for (const listener of [...(this.listeners.get(name) ?? [])]) {
      try {
        (listener as (event: Events[Name]) => void)(event);
      } catch (error) {
        // The app's fault, not this client's: it surfaces where uncaught errors do.
        void Promise.reject(error);
      }
    }
  }
}

/** A value that can be watched, in the shape of React's `useSyncExternalStore`. */
export class Watched<T> {
  private readonly listeners = new Set<() => void>();
  constructor(private value: T) {}

  /** The value now; the same object as long as nothing changed. */
  readonly get = (): T => this.value;

  /** Hears of changes; the returned function stops. */
  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => void this.listeners.delete(listener);
  };

  /** Puts a new value. */
  set(value: T): void {
    if (value === this.value) return;
    this.value = value;
    for (const listener of [...this.listeners]) listener();
  }
}
