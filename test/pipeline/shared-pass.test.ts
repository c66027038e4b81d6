// One pass feeds all the modes asked for, where they fit the memory together: the same files as when each reads for itself,
// half the bytes, also when models turn out to be bad on the way.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { writeSafetensors } from '../sources/write-safetensors.ts';
import { runCli } from './cli-process.ts';
import { tableDigests } from './table-digests.ts';

const root = mkdtempSync(join(tmpdir(), 'weightspan-shared-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const models = join(root, 'models');
beforeAll(() => {
  let state = 7;
  const noise = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return state / 2 ** 31;
  };
  for (let model = 0; model < 9; model++) {
    const tensor = (name: string, rows: number, cols: number) => ({
      name,
      dtype: 'F32',
      shape: [rows, cols],
      data: Float32Array.from({ length: rows * cols }, noise),
    });
    const tensors = [tensor('first', 30, 40), tensor('second', 150, 120)];
    if (model === 4) tensors[1]!.data[17_000] = Number.NaN;
    writeSafetensors(join(models, `model-${model}`, 'model.safetensors'), tensors);
  }
});

interface Plan {
  readonly passes: number;
  readonly bytes_to_read: number;
  readonly groups: readonly { readonly modes: readonly string[] }[];
}

describe.each(['incremental', 'exact'])('with the engine %s', (engine) => {
  const base = ['--engine', engine, '--rank', '4', '--block', '4', '--on-bad-source', 'skip', '--threads', '2'];

  it('all modes leave what each leaves alone, and a bad model is out of its slot in all', async () => {
    const runs: Record<string, Readonly<Record<string, string>>> = {};
    for (const mode of ['models,rows,cols', 'models', 'rows,cols']) {
      const out = join(root, `${engine}-${mode}`);
      const { code, stderr } = await runCli(['run', models, ...base, '--mode', mode, '--out', out, '--quiet']);
      expect([code, stderr]).toEqual([0, '']);
      runs[mode] = tableDigests(out);
      const events = readFileSync(join(out, 'events.ndjson'), 'utf8')
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line));
      // Told once, however many modes found it.
      expect(events.filter(({ type }) => type === 'skip')).toMatchObject([{ model: 'model-4', slot: 'second' }]);
      const done = events.find(({ type }) => type === 'done');
      const last = events.filter(({ type }) => type === 'block').at(-1);
      expect(last.bytesRead).toBeGreaterThanOrEqual(done.bytesRead);
    }
    const all = runs['models,rows,cols']!;
    const same = (other: string, files: RegExp): void => {
      const wanted = Object.entries(runs[other]!).filter(([file]) => files.test(file));
      expect(wanted.length).toBeGreaterThan(1);
      for (const [file, digest] of wanted) expect([file, all[file]]).toEqual([file, digest]);
    };
    same('models', /^(coefficients|scores|convergence|convergence_spectrum|model_slots|mean\/|basis\/)/);
    same('rows,cols', /^(energies|basis\/)/);
  });

  it('reads once for the spectra of all modes, and says so', async () => {
    const plan = async (...options: string[]): Promise<Plan> => {
      const { stdout } = await runCli(['plan', models, ...base, '--no-probe', '--json', ...options]);
      return JSON.parse(stdout) as Plan;
    };
    const once = await plan('--mode', 'models,rows,cols', '--no-basis', '--no-energies');
    expect(once.passes).toBe(1);
    expect(once.bytes_to_read).toBe(9 * (30 * 40 + 150 * 120) * 4);
    expect(once.groups.map(({ modes }) => modes)).toEqual([['models', 'rows', 'cols']]);
    const twice = await plan('--mode', 'models,rows,cols');
    expect([twice.passes, twice.bytes_to_read]).toEqual([2, 2 * once.bytes_to_read]);
  });
});
