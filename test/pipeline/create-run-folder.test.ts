// Two runs that begin in one folder at once both look whether its folders are there, and both make them. The second must find no fault
// with that: whoever fails here takes the other's folder away.
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it, vi } from 'vitest';
import type { RunConfig } from '../../configs/run-config.ts';
import { createRunFolder } from '../../pipeline/run-folder.ts';
import { SinkFailed } from '../../sinks/errors.ts';

const root = mkdtempSync(join(tmpdir(), 'weightspan-run-folder-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const looked = vi.hoisted(() => ({ tooEarly: '' }));
vi.mock('node:fs', async (original) => {
  const fs = await original<typeof import('node:fs')>();
  return { ...fs, existsSync: (path: string) => path !== looked.tooEarly && fs.existsSync(path) };
});

const config = { basis: true, center: true } as RunConfig;

it.each(['', 'checkpoints', 'basis'])('another run makes "%s" between a look and the making', (name) => {
  const out = join(root, `run-${name}`);
  looked.tooEarly = join(out, name);
  mkdirSync(looked.tooEarly, { recursive: true });
  createRunFolder(out, config);
  expect(readdirSync(out).sort()).toEqual(['basis', 'checkpoints', 'mean', 'spill']);
});

it('what is no folder is in the way', () => {
  const out = join(root, 'a-file');
  looked.tooEarly = out;
  writeFileSync(out, '');
  expect(() => createRunFolder(out, config)).toThrow(SinkFailed);
});
