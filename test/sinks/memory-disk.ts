// A disk in memory that knows what would survive a power loss. What was written and not synced may be there, or not, or in
// part; names that were made, given or taken away count once their folder was synced, and until then any of those
// operations may have happened, whatever became of the others.
import { dirname } from 'node:path';
import type { Disk } from '../../sinks/disk.ts';
import { systemError } from './failing-disk.ts';

interface Inode {
  /** As programs see it, and as it was when it was last synced. */
  bytes: Uint8Array;
  synced: Uint8Array;
}

/** A change of a folder's names that was not synced: a name for an inode, or for nothing. */
interface NameChange {
  readonly path: string;
  readonly inode: Inode | null;
}

/** Thrown by the operation at which the power goes. */
export class PowerLoss extends Error {}

export class MemoryDisk implements Disk {
  /** As programs see them, and as they surely are on the medium. */
  readonly #names = new Map<string, Inode>();
  readonly #durable: Map<string, Inode>;
  readonly #open = new Map<number, { readonly inode: Inode; at: number | 'end' }>();
  /** Each a change, or several that come or go together, as those of a rename. */
  #pending: (readonly NameChange[])[] = [];
  #next = 3;
  /** Operations that change something, so far. */
  operations = 0;
  readonly #loseAt: number;

  /** @param loseAt the operation at which the power goes: it happens, or not, as anything unsynced */
  constructor(files: ReadonlyMap<string, Uint8Array> = new Map(), loseAt = Number.POSITIVE_INFINITY) {
    this.#loseAt = loseAt;
    for (const [path, bytes] of files) this.#names.set(path, { bytes, synced: bytes });
    this.#durable = new Map(this.#names);
  }

  #change(): void {
    if (this.operations++ >= this.#loseAt) throw new PowerLoss();
  }

  #descriptor(inode: Inode, at: number | 'end'): number {
    this.#open.set(this.#next, { inode, at });
    return this.#next++;
  }

  #inode(path: string): Inode {
    const inode = this.#names.get(path);
    if (inode === undefined) throw systemError('ENOENT');
    return inode;
  }

  create(path: string): number {
    if (this.#names.has(path)) throw systemError('EEXIST');
    const inode = { bytes: new Uint8Array(0), synced: new Uint8Array(0) };
    this.#pending.push([{ path, inode }]);
    this.#names.set(path, inode);
    this.#change();
    return this.#descriptor(inode, 0);
  }

  openAppend(path: string): number {
    return this.#names.has(path) ? this.#descriptor(this.#inode(path), 'end') : this.create(path);
  }

  open(path: string): number {
    return this.#descriptor(this.#inode(path), 'end');
  }

  write(fd: number, pieces: readonly Uint8Array[]): number {
    const file = this.#open.get(fd)!;
    const at = file.at === 'end' ? file.inode.bytes.length : file.at;
    const added = Buffer.concat(pieces);
    const bytes = new Uint8Array(Math.max(file.inode.bytes.length, at + added.length));
    bytes.set(file.inode.bytes);
    bytes.set(added, at);
    file.inode.bytes = bytes;
    if (file.at !== 'end') file.at += added.length;
    this.#change();
    return added.length;
  }

  sync(fd: number): void {
    this.#change();
    const { inode } = this.#open.get(fd)!;
    inode.synced = inode.bytes;
  }

  async syncLater(fd: number): Promise<void> {
    this.sync(fd);
  }

  async forget(): Promise<void> {}

  size(fd: number): number {
    return this.#open.get(fd)!.inode.bytes.length;
  }

  truncate(fd: number, length: number): void {
    const { inode } = this.#open.get(fd)!;
    inode.bytes = inode.bytes.slice(0, length);
    this.#change();
  }

  close(fd: number): void {
    this.#open.delete(fd);
  }

  rename(from: string, to: string): void {
    const inode = this.#inode(from);
    this.#names.delete(from);
    this.#names.set(to, inode);
    this.#pending.push([
      { path: from, inode: null },
      { path: to, inode },
    ]);
    this.#change();
  }

  remove(path: string): void {
    this.#inode(path);
    this.#names.delete(path);
    this.#pending.push([{ path, inode: null }]);
    this.#change();
  }

  syncFolder(folder: string): void {
    this.#change();
    for (const changes of this.#pending) {
      for (const { path, inode } of changes) {
        if (dirname(path) !== folder) continue;
        if (inode === null) this.#durable.delete(path);
        else this.#durable.set(path, inode);
      }
    }
    this.#pending = this.#pending.filter((changes) => changes.some(({ path }) => dirname(path) !== folder));
  }

  read(fd: number, into: Uint8Array, at: number): number {
    const part = this.#open.get(fd)!.inode.bytes.subarray(at, at + into.length);
    into.set(part);
    return part.length;
  }

  list(folder: string): readonly string[] {
    const below = `${folder}/`;
    return [...this.#names.keys()].filter((path) => path.startsWith(below)).map((path) => path.slice(below.length));
  }

  /** Every disk that a power loss now could leave behind. */
  *survivors(): Generator<ReadonlyMap<string, Uint8Array>> {
    for (let chosen = 0; chosen < 2 ** this.#pending.length; chosen++) {
      const names = new Map(this.#durable);
      this.#pending.forEach((changes, i) => {
        if (((chosen >> i) & 1) === 0) return;
        for (const { path, inode } of changes) {
          if (inode === null) names.delete(path);
          else names.set(path, inode);
        }
      });
      const unsynced = [...new Set(names.values())].filter(({ bytes, synced }) => bytes !== synced);
      const kinds = 4;
      for (let state = 0; state < kinds ** unsynced.length; state++) {
        const contents = new Map(
          unsynced.map((inode, i) => [inode, lost(inode, Math.floor(state / kinds ** i) % kinds)]),
        );
        yield new Map([...names].map(([path, inode]) => [path, contents.get(inode) ?? inode.bytes]));
      }
    }
  }
}

/** What an unsynced file may hold: what it was, all of it, half of what is new, or zeros in its place. */
const lost = ({ bytes, synced }: Inode, kind: number): Uint8Array => {
  if (kind === 0) return synced;
  if (kind === 1) return bytes;
  if (kind === 2) return bytes.slice(0, Math.floor((synced.length + bytes.length) / 2));
  const zeros = new Uint8Array(bytes.length);
  zeros.set(synced.subarray(0, bytes.length));
  return zeros;
};
