import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { root } from '../pipeline/cli-process.ts';

/** Runs a script in a process of its own: a table that has grown stays as it is. */
const inProcess = (script: string): string[] => {
  const { stdout, stderr, status } = spawnSync(process.execPath, ['--input-type=module', '--eval', script], {
    encoding: 'utf8',
  });
  expect(status, stderr).toBe(0);
  return stdout.trim().split('\n');
};

it.skipIf(process.platform !== 'linux')('the table has room for 1,024 files, and nothing stays open', () => {
  const lines = inProcess(`
    import { readdirSync, readFileSync } from 'node:fs';
    import { growDescriptorTable } from ${JSON.stringify(join(root, 'dist/sources/descriptor-table.js'))};
    const look = () => /FDSize:\\s+(\\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1] + ' ' + readdirSync('/proc/self/fd').length;
    const seen = [look(), await growDescriptorTable(), look()];
    console.log(seen.join('\\n'));
  `);
  const [[sizeBefore, openBefore], [size, open]] = [lines[0]!, lines[2]!].map((line) =>
    line.split(' ').map(Number),
  ) as [[number, number], [number, number]];
  expect(sizeBefore).toBeLessThan(1024);
  expect([lines[1], size, open]).toEqual(['true', 1024, openBefore]);
});
