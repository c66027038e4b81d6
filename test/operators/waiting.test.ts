// How long the engine exact waited for weights: neither for what groups before did, nor for what came between its two passes.
import { concatMap, delay, filter, lastValueFrom, of, toArray } from 'rxjs';
import { expect, it } from 'vitest';
import { type ExactSlot, exactPca } from '../../operators/exact-pca.ts';
import type { BlockUpdate } from '../../operators/incremental-pca.ts';
import { plannedSlot, writeModel } from '../sources/planned-files.ts';
import { temporaryFolder } from '../sources/temporary-folder.ts';
import { devices, withTilesOf } from './devices.ts';
import { normals } from './planted.ts';

const MODELS = 4;
const [ROWS, COLS] = [3, 40] as const;
const DELAY_MS = 700;

it('counts what it waited for files alone', async () => {
  const folder = temporaryFolder();
  const slots = ['a', 'b'].map((name, id) => plannedSlot(id, name, ROWS, COLS));
  const models = await Promise.all(
    Array.from({ length: MODELS }, (_, id) => {
      const normal = normals(id);
      const data = (): Float32Array => Float32Array.from({ length: ROWS * COLS }, normal);
      return writeModel(
        folder,
        id,
        slots.map(({ name }) => ({ name, dtype: 'F32', shape: [ROWS, COLS], data: data() })),
      );
    }),
  );
  const busy = (): void => {
    const until = performance.now() + DELAY_MS;
    while (performance.now() < until);
  };
  const groups = slots.map((slot, index) => ({ index, slots: [slot], inFiles: true as const }));
  await withTilesOf(devices[0]!.open)(async (tiles) => {
    const updates = await lastValueFrom(
      exactPca(
        { models, base: null, groups, block: 2 },
        {
          rank: 2,
          tiles,
          onSpectrum: busy,
          finish: (slot) => of(slot).pipe(delay(DELAY_MS)),
        },
      ).pipe(
        concatMap(async (event: BlockUpdate | ExactSlot) => event),
        filter((event): event is BlockUpdate => event.kind === 'block'),
        toArray(),
      ),
    );
    expect(updates).toHaveLength(4);
    for (const { waitSeconds } of updates) expect(waitSeconds).toBeLessThan(DELAY_MS / 2e3);
  });
});
