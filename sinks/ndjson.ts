// `--json`: every event one JSON line on the stream, and nothing else. A reader that leaves is noticed once; for
// one that is slow, progress is dropped once a megabyte waits, so memory stays bounded and the result still comes.
import type { Writable } from 'node:stream';
import type { TelemetryEvent } from '../pipeline/telemetry.ts';
import { openTextStream } from './text-stream.ts';

const MOST_WAITING = 1 << 20;

export interface NdjsonSink {
  /** False once the reader has gone. */
  readonly open: boolean;
  write(event: TelemetryEvent): void;
  /** Resolves when all lines have left the process, or the reader has gone. Await it before exiting. */
  flush(): Promise<void>;
}

/** `onClosed` is called once when the reader goes (EPIPE); what the run does then is the caller's to decide. */
export function openNdjson(stream: Writable, onClosed: (cause: Error) => void = () => {}): NdjsonSink {
  const text = openTextStream(stream, onClosed);
  return {
    get open() {
      return text.open;
    },
    write: (event) => {
      if (event.type === 'block' && text.waiting > MOST_WAITING) return;
      text.write(`${JSON.stringify(event)}\n`);
    },
    flush: () => text.flush(),
  };
}
