// Every preset in configs/ decodes, and starts with the command that runs it.
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Effect } from 'effect';
import { describe, expect, it } from 'vitest';
import { resolveConfig } from '../../configs/resolve-config.ts';

const folder = join(dirname(fileURLToPath(import.meta.url)), '../../configs');
const presets = readdirSync(folder).filter((name) => /\.ya?ml$/.test(name));

it('there are some', () => {
  expect(presets.length).toBeGreaterThanOrEqual(2);
});

describe.each(presets)('%s', (name) => {
  it('starts with the command that runs it', () => {
    const [first] = readFileSync(join(folder, name), 'utf8').split('\n');
    expect(first).toMatch(new RegExp(`^# weightspan run \\S+ --out \\S+ --config configs/${name}$`));
  });

  it('decodes', async () => {
    const flags = { sources: ['models'], out: 'run' };
    const { config } = await Effect.runPromise(resolveConfig(flags, join(folder, name), 'run'));
    expect(config.sources).toEqual(['models']);
  });

  it('names no path of its own', () => {
    expect(readFileSync(join(folder, name), 'utf8')).not.toMatch(/^(sources|out|base):/m);
  });
});
