// Engines whose weights stay in their files until a thread multiplies them: the same bits as with blocks staged in memory,
// and no row that could not be read in any state.
import { appendFileSync, closeSync, openSync, readdirSync, rmSync } from 'node:fs';
import { concatMap, from, lastValueFrom, map, toArray } from 'rxjs';
import { describe, expect, it, onTestFinished } from 'vitest';
import { exactPca } from '../../operators/exact-pca.ts';
import { type BlockUpdate, incrementalPca } from '../../operators/incremental-pca.ts';
import type { Subspace } from '../../operators/subspace.ts';
import type { OpenRows } from '../../sources/open-block.ts';
import type { PlannedModel, PlannedSlot, ReadingPlan, SlotGroup } from '../../sources/reading-plan.ts';
import { type ReadBlock, type WeightBlock, weightBlocks } from '../../sources/weight-blocks.ts';
import { plannedSlot, writeModel } from '../sources/planned-files.ts';
import { temporaryFolder } from '../sources/temporary-folder.ts';
import type { TensorToWrite } from '../sources/write-safetensors.ts';
import { devices, withTilesOf } from './devices.ts';
import { normals } from './planted.ts';

/** Three tiles, the last one not full. */
const WIDE = [4, 10_000] as const;
const MODELS = 11;
const BLOCK = 4;

/** Of the wide slot's models in turn. Of float32 alone rows are read to where they are multiplied. */
const DTYPES = { 'float32 and halves': ['F32', 'BF16', 'F32', 'F16'], 'float32 alone': ['F32'] } as const;
type Dtypes = (typeof DTYPES)[keyof typeof DTYPES];

const weightsOf = (id: number, length: number): Float32Array => {
  const shared = normals(1000);
  const own = normals(id);
  const strength = own();
  return Float32Array.from({ length }, () => strength * shared() + 0.3 * own());
};

/** What a model's tensors are; a model may have a weight that is no number. */
const tensorsOf = (dtypes: Dtypes, id: number, bad: ReadonlySet<number>): readonly TensorToWrite[] => {
  const wide = weightsOf(id, WIDE[0] * WIDE[1]);
  if (bad.has(id)) wide[20_000] = Number.NaN;
  return [
    { name: 'wide', dtype: dtypes[id % dtypes.length]!, shape: WIDE, data: wide },
    { name: 'small', dtype: 'F32', shape: [3, 7], data: weightsOf(100 + id, 21) },
  ];
};

interface Given {
  readonly models: readonly PlannedModel[];
  readonly base: PlannedModel | null;
  readonly slots: readonly PlannedSlot[];
}

const givenOf = async (dtypes: Dtypes, bad: ReadonlySet<number> = new Set(), hasBase = false): Promise<Given> => {
  const folder = temporaryFolder();
  const ids = Array.from({ length: MODELS }, (_, id) => id);
  const models = await Promise.all(ids.map((id) => writeModel(folder, id, tensorsOf(dtypes, id, bad))));
  const base = hasBase ? await writeModel(folder, MODELS, tensorsOf(dtypes, MODELS, bad)) : null;
  return { models, base, slots: [plannedSlot(0, 'wide', ...WIDE), plannedSlot(1, 'small', 3, 7)] };
};

type Spoil = (block: WeightBlock, read: ReadBlock) => void;

interface Asked {
  readonly engine: 'incremental' | 'exact';
  readonly onBadSource?: 'error' | 'skip';
  readonly group?: Partial<SlotGroup>;
  /** Sees every block between its being opened and its being used. */
  readonly spoil?: Spoil;
}

interface Result {
  readonly slots: readonly { readonly name: string; readonly models: number; readonly numbers: readonly number[] }[];
  readonly skipped: readonly string[];
}

const everyDevice = devices.flatMap(({ name, open }) =>
  Object.entries(DTYPES).map(([what, dtypes]) => [name, what, { open, dtypes }] as const),
);

const runOn = async (
  open: (typeof devices)[number]['open'],
  { models, base, slots }: Given,
  { engine, onBadSource = 'error', group, spoil }: Asked,
): Promise<Result> =>
  withTilesOf(open)(async (tiles) => {
    const groups =
      group?.tilesAtOnce === undefined
        ? [{ index: 0, slots, ...group }]
        : slots.map((slot, index) => ({ index, slots: [slot], ...group }));
    const plan: ReadingPlan = { models, base, groups, block: BLOCK };
    const watched = (block: WeightBlock): WeightBlock => ({
      ...block,
      read: async (buffer, part) => {
        const read = await block.read(buffer, part);
        spoil?.(block, read);
        return read;
      },
    });
    const basisOf = async (subspace: Subspace): Promise<Result['slots'][number]> => {
      const { slot, state, rank } = subspace;
      const buffer = new SharedArrayBuffer((1 + rank) * slot.features * 4);
      await subspace.readTiles(0, subspace.tiles.length, buffer);
      const numbers = [...state.eigenvalues, state.total, ...new Float32Array(buffer)];
      return { name: slot.name, models: state.models, numbers };
    };
    const options = { rank: 3, tiles, onBadSource, scratch: temporaryFolder() };
    const blocks = (reading: ReadingPlan) => weightBlocks(reading).pipe(map(watched));
    const stream =
      engine === 'exact'
        ? exactPca(plan, { ...options, blocks, finish: ({ subspace }) => from(basisOf(subspace!)) })
        : blocks(plan).pipe(incrementalPca({ ...options, finish: (subspace) => from(basisOf(subspace)) }));
    const events = await lastValueFrom(
      stream.pipe(
        concatMap(async (event) => event as BlockUpdate | Result['slots'][number]),
        toArray(),
      ),
    );
    const updates = events.filter((event): event is BlockUpdate => 'kind' in event);
    return {
      slots: events.filter((event): event is Result['slots'][number] => !('kind' in event)),
      skipped: updates.flatMap(({ skipped }) =>
        skipped.map(({ model, slot, error }) => `${model.id} ${slot.name} ${'rule' in error ? error.rule : 'io'}`),
      ),
    };
  });

const openDescriptors = (): number => readdirSync('/proc/self/fd').length;

/** Puts a folder in place of a model's file, from which nothing can be read. */
const unreadable = (id: number, name = 'wide', when: (block: WeightBlock) => boolean = () => true): Spoil => {
  const folder = openSync(temporaryFolder(), 'r');
  onTestFinished(() => closeSync(folder));
  return (block, { slots, base }) => {
    if (!when(block)) return;
    for (const { slot, rows } of [...slots, ...(base?.slots ?? [])])
      for (const part of rows as readonly OpenRows[]) {
        const at = part.models.indexOf(id);
        if (slot.name === name && at >= 0) part.fds[at] = folder;
      }
  };
};

describe.each(everyDevice)('%s, %s: weights that stay in their files', (_device, _what, { open, dtypes }) => {
  const given = (bad?: ReadonlySet<number>, hasBase?: boolean): Promise<Given> => givenOf(dtypes, bad, hasBase);
  const engines = ['incremental', 'exact'] as const;

  it.each(engines)('%s: the same bits as from memory, with a base and without, whole and in parts', async (engine) => {
    for (const hasBase of [false, true]) {
      const all = await given(new Set(), hasBase);
      for (const parts of [{}, { tilesAtOnce: 2 }]) {
        const before = openDescriptors();
        const inFiles = await runOn(open, all, { engine, group: { ...parts, inFiles: true } });
        await expect.poll(openDescriptors).toBe(before);
        const staged = await runOn(open, all, { engine, group: parts });
        expect(inFiles).toEqual(staged);
        expect(inFiles.slots.map(({ name, models }) => [name, models])).toEqual([
          ['wide', MODELS],
          ['small', MODELS],
        ]);
      }
    }
  });

  it.each(engines)('%s, skip: rows that cannot be read leave the bits of a run without their files', async (engine) => {
    for (const [left, parts] of [
      [2, {}],
      [9, {}],
      [5, { tilesAtOnce: 1 }],
    ] as const) {
      const all = await given(new Set([6]));
      const asked = { engine, onBadSource: 'skip' } as const;
      const spoil = unreadable(left);
      const found = await runOn(open, all, { ...asked, group: { ...parts, inFiles: true }, spoil });
      expect([...found.skipped].sort()).toEqual([`${left} wide io`, '6 wide not-finite'].sort());
      expect(found.slots.map(({ models }) => models)).toEqual([MODELS - 2, MODELS]);
      rmSync(all.models[left]!.header.files[0]!.path);
      const without = await runOn(open, all, { ...asked, group: parts });
      expect(found.slots[0]).toEqual(without.slots[0]);
    }
  });

  it.each(engines)(
    '%s, error: the first row that cannot be read ends the run, and every file is closed',
    async (engine) => {
      const all = await given();
      const spoil = unreadable(3, 'small');
      const before = openDescriptors();
      const failed = runOn(open, all, { engine, group: { inFiles: true }, spoil });
      await expect(failed).rejects.toThrow(/3\.safetensors: cannot be read at byte \d+: EISDIR/);
      await expect.poll(openDescriptors).toBe(before);
    },
  );

  it.each(engines)('%s: without the base there is no origin, whatever may be skipped', async (engine) => {
    const all = await given(new Set(), true);
    const spoil = unreadable(MODELS);
    const failed = runOn(open, all, { engine, onBadSource: 'skip', group: { inFiles: true }, spoil });
    await expect(failed).rejects.toThrow(new RegExp(`${MODELS}\\.safetensors: cannot be read`));
  });

  it.each(engines)(
    '%s: a file written to between its opening and the end of its block ends the run',
    async (engine) => {
      const all = await given();
      const spoil: Spoil = ({ models }) => {
        const late = models.find(({ id }) => id === 7);
        if (late !== undefined) appendFileSync(late.header.files[0]!.path, '.');
      };
      const failed = runOn(open, all, { engine, onBadSource: 'skip', group: { inFiles: true }, spoil });
      await expect(failed).rejects.toThrow(/7\.safetensors: has \d+ bytes, expected the \d+ it had/);
    },
  );

  it('exact: what cannot be read for the second time ends the run', async () => {
    const all = await given();
    let passes = 0;
    const spoil = unreadable(1, 'wide', () => ++passes === 2);
    const failed = runOn(open, all, { engine: 'exact', onBadSource: 'skip', group: { inFiles: true }, spoil });
    await expect(failed).rejects.toThrow(/1\.safetensors: cannot be read/);
  });

  it('a whole block that cannot be read leaves the others', async () => {
    const all = await given();
    for (const ids of [
      [4, 5, 6, 7],
      [0, 1, 2, 3],
    ]) {
      const spoils = ids.map((id) => unreadable(id));
      const spoil: Spoil = (block, read) => {
        for (const each of spoils) each(block, read);
      };
      const asked = { engine: 'incremental', onBadSource: 'skip', group: { inFiles: true }, spoil } as const;
      const found = await runOn(open, all, asked);
      expect(found.slots.map(({ models }) => models)).toEqual([MODELS - 4, MODELS]);
    }
  });
});
