// The control groups this process lives in, for the limits a container sets: version 2 (one tree) and version 1 (a tree a
// controller). A limit anywhere above counts, so a caller takes the tightest of all folders. Inside a container the path in
// /proc/self/cgroup may not exist below the mount; its ancestors, the mount itself last, are listed all the same.
import { readFileSync } from 'node:fs';
import { join, posix } from 'node:path';

/** Reads a small file; null where there is none. */
export function readSmallFile(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return null;
  }
}

/**
 * The folders of a controller from this process's own group up to the mount.
 * @param root where the file system starts; `/` but in tests
 */
export function cgroupFolders(
  controller: 'memory' | 'cpu',
  root: string,
): { readonly version: 1 | 2; readonly folders: readonly string[] } | null {
  let group: string | null = null;
  let version: 1 | 2 = 2;
  for (const line of readSmallFile(join(root, 'proc/self/cgroup'))?.split('\n') ?? []) {
    const [, controllers, path] = /^\d+:([^:]*):(\/.*)$/.exec(line) ?? [];
    if (controllers === undefined || path === undefined) continue;
    // A hybrid machine lists both; the controller is where version 1 names it.
    if (controllers.split(',').includes(controller)) {
      group = path;
      version = 1;
      break;
    }
    if (controllers === '') group = path;
  }
  if (group === null) return null;
  const mount = join(root, 'sys/fs/cgroup', version === 1 ? controller : '');
  const folders: string[] = [];
  for (let path = posix.normalize(group); ; path = posix.dirname(path)) {
    folders.push(join(mount, path));
    if (path === '/') return { version, folders };
  }
}
