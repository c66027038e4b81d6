import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach } from 'vitest';

/** A fresh folder for every test of the file; read `.path` inside the test. */
export function useTestFolder(): { readonly path: string; list(): string[]; join(name: string): string } {
  let folder = '';
  beforeEach(() => {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), 'weightspan-sinks-'));
  });
  afterEach(() => {
    fs.rmSync(folder, { recursive: true, force: true });
  });
  return {
    get path() {
      return folder;
    },
    list: () => fs.readdirSync(folder).sort(),
    join: (name) => path.join(folder, name),
  };
}
