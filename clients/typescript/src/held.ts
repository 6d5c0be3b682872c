/** Things that several may use at once. */

/**
 * What runs while anybody holds it: starts with the first holder, ends when the last one let go. Each gets a
 * function to let go with; calling it again does nothing.
 */
export function held(start: () => void, stop: () => void): () => () => void {
  let holders = 0;
  return () => {
    if (holders++ === 0) start();
    let holds = true;
    return () => {
      if (holds && --holders === 0) stop();
      holds = false;
    };
  };
}
