// One event file in a folder, written record by record. It never overwrites: a run that goes on writes another file, whose name
// sorts behind, since readers take the files of a folder in the order of their names. After a failed write the file is cut
// back to its last whole record and nothing more is written: readers stop at a torn one.
import { mkdirSync, readdirSync, rmdirSync, rmSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname, join } from 'node:path';
import { frameRecord } from './frame-record.ts';

export class EventFile {
  readonly path: string;
  readonly #handle: FileHandle;
  #whole = 0;

  private constructor(path: string, handle: FileHandle) {
    this.path = path;
    this.#handle = handle;
  }

  /** Makes the folder where it is missing. Rejects with what the system says. */
  static async create(folder: string, now: number = Date.now()): Promise<EventFile> {
    mkdirSync(folder, { recursive: true });
    const newest = Math.max(
      0,
      ...readdirSync(folder).map((name) => Number(/\.tfevents\.(\d{10})\./.exec(name)?.[1] ?? 0)),
    );
    // A clock that was set back must not put this file before those that are there.
    const second = Math.max(Math.floor(now / 1e3), newest + 1);
    const host = hostname().replace(/[^\w.-]/g, '-');
    const path = join(folder, `events.out.tfevents.${String(second).padStart(10, '0')}.${host}.${process.pid}.0`);
    return new EventFile(path, await open(path, 'wx'));
  }

  async append(records: readonly Uint8Array[]): Promise<void> {
    const bytes = Buffer.concat(records.map(frameRecord));
    try {
      await this.#handle.writeFile(bytes);
    } catch (cause) {
      await this.#handle.truncate(this.#whole).catch(() => {});
      throw cause;
    }
    this.#whole += bytes.length;
  }

  close(): Promise<void> {
    return this.#handle.close();
  }

  /** Takes the file away, and the folder and the one above where nothing else is in them. */
  remove(): void {
    rmSync(this.path, { force: true });
    try {
      rmdirSync(dirname(this.path));
      rmdirSync(dirname(dirname(this.path)));
    } catch {
      // Not empty.
    }
  }
}
