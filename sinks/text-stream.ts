// A stream of text whose reader may leave: `run --json | head -n 1` closes the pipe under us, and what is written
// then is an 'error' event, which unheard ends the process with a stack trace. Heard once here, then quiet.
import type { Writable } from 'node:stream';

export interface TextStream {
  /** Bytes that wait in memory because the reader is slow. */
  readonly waiting: number;
  /** False once the reader has gone. */
  readonly open: boolean;
  write(text: string): void;
  /** Resolves when everything written has left the process, or the reader has gone. Never rejects. */
  flush(): Promise<void>;
}

/** `onClosed` is called once, when the reader has gone, with what the system said. */
export function openTextStream(stream: Writable, onClosed: (cause: Error) => void = () => {}): TextStream {
  let open = true;
  const waiters = new Set<() => void>();
  const leave = (cause: Error): void => {
    if (!open) return;
    open = false;
    for (const wake of waiters) wake();
    waiters.clear();
    onClosed(cause);
  };
  // Stays attached for good: one 'error' comes for every write that was under way.
  stream.on('error', leave);
  stream.on('close', () => leave(new Error('the stream was closed')));

  return {
    get waiting() {
      return stream.writableLength;
    },
    get open() {
      return open;
    },
    write: (text) => {
      if (!open) return;
      try {
        stream.write(text);
      } catch (cause) {
        leave(cause as Error);
      }
    },
    flush: () =>
      new Promise((resolve) => {
        if (!open) {
          resolve();
          return;
        }
        waiters.add(resolve);
        try {
          stream.write('', () => {
            waiters.delete(resolve);
            resolve();
          });
        } catch (cause) {
          leave(cause as Error);
        }
      }),
  };
}
