// events.ndjson: what happened in a run, one JSON object a line, {seq, time, type, …}. Appended and not synced
// line by line: after a crash the last lines may be missing, and no result depends on them.
import type { TelemetryEvent } from '../pipeline/telemetry.ts';
import { type Disk, nodeDisk } from './disk.ts';
import { sinkFailure, writeFully } from './durable-file.ts';

export interface EventLogOptions {
  /** Where a resumed run goes on: what stands behind is cut off, and will happen again. Default: at the end, from 0. */
  readonly from?: EventPosition;
  readonly now?: () => Date;
  readonly disk?: Disk;
}

export interface EventPosition {
  /** Bytes so far. */
  readonly size: number;
  /** The sequence number of the next event. */
  readonly seq: number;
}

export interface EventLog {
  readonly path: string;
  readonly position: EventPosition;
  /**
   * Appends an event. Throws `SinkFailed` the first time the disk refuses, having cut the file back to its last
   * whole line; from then on events are dropped without a word.
   */
  write(event: TelemetryEvent): void;
  /** Syncs and closes. Throws `SinkFailed`, unless `write` has thrown already. */
  close(): void;
}

/** Opens an event log for appending, creating it where it is missing. Throws `SinkFailed`. */
export function openEventLog(path: string, options: EventLogOptions = {}): EventLog {
  const { from = null, now = () => new Date(), disk = nodeDisk } = options;
  let seq = from?.seq ?? 0;
  let fd: number | null = null;
  let whole = 0;

  const attempt = (doing: string, step: (open: number) => void): void => {
    if (fd === null) return;
    try {
      step(fd);
    } catch (cause) {
      const open = fd;
      fd = null;
      try {
        disk.truncate(open, whole);
        disk.close(open);
      } catch {
        // The failure above is the one to report.
      }
      throw sinkFailure(path, doing, cause);
    }
  };

  try {
    fd = disk.openAppend(path);
    whole = disk.size(fd);
    if (from !== null && whole > from.size) {
      disk.truncate(fd, from.size);
      whole = from.size;
    }
  } catch (cause) {
    throw sinkFailure(path, 'opening it', cause);
  }

  return {
    path,
    get position() {
      return { size: whole, seq };
    },
    write: (event) => {
      attempt(`appending event ${seq}`, (open) => {
        const line = Buffer.from(`${JSON.stringify({ seq, time: now().toISOString(), ...event })}\n`);
        writeFully(disk, open, [line]);
        whole += line.length;
        seq++;
      });
    },
    close: () => {
      attempt('syncing it', (open) => disk.sync(open));
      attempt('closing it', (open) => {
        fd = null;
        disk.close(open);
      });
    },
  };
}
