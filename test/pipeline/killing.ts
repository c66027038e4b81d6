// Runs that are killed at seeded random moments and resumed, again and again, until they finish.
import { linkSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { nodeDisk } from '../../sinks/disk.ts';
import { normals } from '../operators/planted.ts';
import { writeSafetensors } from '../sources/write-safetensors.ts';
import { startCli } from './cli-process.ts';

export interface Slot {
  readonly name: string;
  readonly shape: readonly [number, number];
}

/**
 * Writes `distinct` models of a few shared directions and noise, and as many more names for them as make `models`: links,
 * which are models of their own to whoever reads them.
 */
export const writeMany = (
  folder: string,
  models: number,
  distinct: number,
  slots: readonly Slot[],
  seed = 1,
  first = 0,
): void => {
  const normal = normals(seed);
  const bases = slots.map(({ shape: [rows, cols] }) =>
    [0, 1, 2].map(() => Float32Array.from({ length: rows * cols }, () => normal())),
  );
  for (let i = 0; i < models; i++) {
    const path = join(folder, `m${String(first + i).padStart(5, '0')}`, 'model.safetensors');
    if (i >= distinct) {
      mkdirSync(join(path, '..'), { recursive: true });
      linkSync(join(folder, `m${String(first + (i % distinct)).padStart(5, '0')}`, 'model.safetensors'), path);
      continue;
    }
    writeSafetensors(
      path,
      slots.map(({ name, shape }, s) => {
        const [base, a, b] = bases[s]!;
        const [x, y] = [normal(), normal() / 2];
        const data = base!.map((value, j) => value + 0.1 * (x * a![j]! + y * b![j]! + 0.3 * normal()));
        return { name, dtype: 'F32', shape, data };
      }),
    );
  }
};

export interface Killed {
  readonly kills: number;
  /** Different places that a resumed run went on from. */
  readonly places: number;
  /** Kills in the middle of a commit. */
  readonly inCommits: number;
  /** Kills before anything was durable, so that the run was begun anew. */
  readonly anew: number;
}

/** Files of a commit that did not come to its end: those that no manifest names, and a manifest that is not whole. */
const straysIn = (folder: string): ReadonlySet<string> => {
  const names = nodeDisk.list(folder);
  const named = new Set<string>();
  const torn = new Set<string>();
  for (const name of names.filter((one) => one.startsWith('manifest-'))) {
    try {
      const { manifest } = JSON.parse(readFileSync(join(folder, name), 'utf8'));
      for (const file of manifest.files) named.add(file.name);
    } catch {
      torn.add(name);
    }
  }
  const isStray = (name: string): boolean =>
    torn.has(name) || name.startsWith('.tmp-') || (/-[0-9a-f]{16}\./.test(name) && !named.has(name));
  return new Set(names.filter(isStray));
};

/** Whether a run has written down what it is, so that it can be resumed. @param folder its checkpoints' */
export const hasBegun = (folder: string): boolean => {
  const strays = straysIn(folder);
  return nodeDisk.list(folder).some((name) => name.startsWith('manifest-') && !strays.has(name));
};

/** Whether a process has begun a commit and not ended it. @param before what stood there before the process */
const isInCommit = (folder: string, before: ReadonlySet<string>): boolean =>
  [...straysIn(folder)].some((name) => !before.has(name));

/** Resolves once a commit is on its way, or the process has ended. */
const commitBegun = async (folder: string, before: ReadonlySet<string>, ended: Promise<unknown>): Promise<void> => {
  let isOver = false;
  void ended.then(() => {
    isOver = true;
  });
  while (!isOver && !isInCommit(folder, before)) await sleep(1);
};

/** Minimal standard generator: the same moments in every run of the test. */
const uniform = (seed: number): (() => number) => {
  let state = seed;
  return () => {
    state = (state * 48_271) % 2_147_483_647;
    return state / 2_147_483_647;
  };
};

/**
 * @param span a process is killed at most so many seconds after it has begun to work; one in five from its start on, and
 * another one in five, once that moment has come, as soon as it commits something
 * Resolves when the run is finished; rejects when a process ends on its own with a failure.
 */
export const runKilled = async (
  args: readonly string[],
  out: string,
  { kills: most, span, seed }: { readonly kills: number; readonly span: number; readonly seed: number },
): Promise<Killed> => {
  const random = uniform(seed);
  const places = new Set<string>();
  const checkpointsOf = join(out, 'checkpoints');
  let [kills, inCommits, anew] = [0, 0, 0];
  let isBegun = false;
  for (;;) {
    const command = isBegun ? ['resume', out, '--json'] : ['run', ...args, '--out', out, '--json'];
    const strays = straysIn(checkpointsOf);
    const { child, ended, seen } = startCli(command);
    if (kills < most) {
      const life = 1000 * span * random();
      const begun = random() < 0.2 ? Promise.resolve() : seen('stdout', '"type":"').catch(() => {});
      const strike = begun.then(() => sleep(life));
      const aimed = kills % 5 === 4 ? strike.then(() => commitBegun(checkpointsOf, strays, ended)) : strike;
      void aimed.then(() => child.kill('SIGKILL'));
    }
    const { code, stdout, stderr } = await ended;
    const resumed = /"type":"resumed".*?"group":(\d+),"block":(\d+)/.exec(stdout);
    if (resumed !== null) places.add(`${resumed[1]}/${resumed[2]}`);
    if (code === 0) return { kills, places: places.size, inCommits, anew };
    if (code !== null) throw new Error(`ended with ${code}: ${stderr}`);
    kills++;
    if (isInCommit(checkpointsOf, strays)) inCommits++;
    // Killed before the run had written what it is, it is begun anew.
    isBegun = hasBegun(checkpointsOf);
    if (!isBegun) anew++;
  }
};
