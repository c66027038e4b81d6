// Lists a folder: files and folders apart, in byte order, links as what they lead to. Cost: one call, and one for each link.
import type { Dirent } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { byteOrder } from './byte-order.ts';
import { reading } from './regular-file.ts';

export interface FolderContent {
  readonly files: readonly string[];
  readonly folders: readonly string[];
}

/** What stands in a folder, in byte order, without hidden names; links are what they lead to. */
export async function list(folder: string): Promise<FolderContent> {
  const files: string[] = [];
  const folders: string[] = [];
  for (const entry of await reading(folder, () => readdir(folder, { withFileTypes: true }))) {
    if (entry.name.startsWith('.')) continue;
    if (await isFolder(folder, entry)) folders.push(entry.name);
    else files.push(entry.name);
  }
  return { files: files.sort(byteOrder), folders: folders.sort(byteOrder) };
}

async function isFolder(folder: string, entry: Dirent): Promise<boolean> {
  if (!entry.isSymbolicLink()) return entry.isDirectory();
  return await stat(join(folder, entry.name)).then(
    (stats) => stats.isDirectory(),
    () => false,
  );
}
