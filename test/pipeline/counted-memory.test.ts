// What the plan counts of the engines exact and incremental against what threads ask of their device, each for itself or all together: never less, and
// where tiles are dealt evenly the same.
import { describe, expect, it } from 'vitest';
import { dealTiles } from '../../operators/deal-tiles.ts';
import { blasDevice, blasFloats } from '../../operators/devices/blas-device.ts';
import type { BlasLibrary } from '../../operators/devices/blas-library.ts';
import type { Device } from '../../operators/devices/device.ts';
import { passingLayout } from '../../operators/exact-pca.ts';
import { maxStateRows } from '../../operators/subspace-state.ts';
import { TileStore } from '../../operators/tile-store.ts';
import type { SlotLayout } from '../../operators/tile-tasks.ts';
import { rowsBeforeBlock } from '../../operators/update-subspace.ts';
import { groupMemory, type MemoryNeeds } from '../../pipeline/memory-plan.ts';
import type { TensorEntry } from '../../sources/model.ts';
import type { PlannedModel, PlannedSlot, SlotGroup } from '../../sources/reading-plan.ts';
import { TILE_WIDTH } from '../../sources/tile.ts';
import { memoryNeeds } from './memory-needs.ts';

const RANK = 7;

const modelsOf = (count: number): readonly PlannedModel[] =>
  Array.from({ length: count }, (_, id) => ({ id }) as unknown as PlannedModel);

const slotOf = (id: number, features: number, dtype = 'F32'): PlannedSlot => ({
  ...{ id, name: `s${id}`, rows: 1, cols: features, features },
  tensorIn: () => ({ dtype }) as TensorEntry,
});

/**
 * Bytes of matrices that all threads make for a group, one after the other.
 * @param haveCommon whether what tiles keep is made for all of them
 */
const allocated = (needs: MemoryNeeds, slots: readonly SlotLayout[], haveCommon: boolean): number => {
  let bytes = 0;
  const arena = {
    buffers: [new Float32Array(0)],
    place: (floats: number) => {
      bytes += floats * 4;
      return { buffer: 0, at: 0 };
    },
  };
  const device: Device = {
    ...blasDevice({ library: 'none', version: '0.0.0' } as BlasLibrary),
    allocate: (rows, width) => {
      bytes += blasFloats(rows, width) * 4;
      return { rows, width };
    },
    reshape: (matrix, width) => ({ ...matrix, width }),
    free: () => {},
  };
  if (!needs.inPlace) delete (device as { inPlace?: unknown }).inPlace;
  const sizes = haveCommon ? { panel: needs.panel, floatsOf: blasFloats } : null;
  for (const { owned, common } of dealTiles(slots, needs.threads, sizes, arena))
    new TileStore(device).open(slots, (slot, tile) => owned[slot]!.includes(tile), common);
  return bytes;
};

/** A pass for the Gram, and one for directions, which takes the place of it. */
const exactLayouts = (needs: MemoryNeeds, group: SlotGroup): readonly (readonly SlotLayout[])[] => {
  const layouts = group.slots.map((slot) => passingLayout(slot, group, needs.models));
  const directions = layouts.map((layout) => ({
    ...layout,
    maxRows: rowsBeforeBlock(Math.min(RANK, needs.models.length, layout.features)),
  }));
  return [layouts.map((layout) => ({ ...layout, maxRows: 0 })), ...(needs.basis ? [directions] : [])];
};

const incrementalLayouts = ({ models, block }: MemoryNeeds, { slots }: SlotGroup): readonly SlotLayout[] =>
  slots.map(({ name, features }) => {
    const spec = { features, rank: RANK, center: true, shiftIsOrigin: false, engine: 'incremental' as const };
    const maxRows = rowsBeforeBlock(maxStateRows(spec, models.length)) + Math.min(block, models.length);
    return { slot: name, features, maxRows, passingRows: null, spill: null };
  });

const wide = 16 * TILE_WIDTH;
const groups: readonly (readonly [string, readonly PlannedSlot[]])[] = [
  ['a slot of 16 tiles', [slotOf(0, wide)]],
  ['of less than a panel', [slotOf(0, 300)]],
  ['five slots of a tile each', [0, 1, 2, 3, 4].map((id) => slotOf(id, 5000))],
  ['a narrow slot in float32, and a wide one that is not', [slotOf(0, 7000), slotOf(1, wide, 'BF16')]],
  ['many', Array.from({ length: 30 }, (_, id) => slotOf(id, 100 + 3000 * id, id % 3 === 0 ? 'F16' : 'F32'))],
];

describe.each(groups)('%s', (_, slots) => {
  const check = (
    needs: MemoryNeeds,
    group: SlotGroup,
    passes: readonly (readonly SlotLayout[])[],
    what: object,
  ): void => {
    const counted = groupMemory(needs, group).state;
    for (const haveCommon of [false, true]) {
      const made = Math.max(...passes.map((layouts) => allocated(needs, layouts, haveCommon)));
      const how = JSON.stringify({ ...what, haveCommon });
      expect(made, how).toBeLessThanOrEqual(counted);
      if (slots.length === 1) expect(made, how).toBeGreaterThan(0.9 * counted);
    }
  };
  const needs = { ...memoryNeeds, rank: RANK, block: 32, memory: 0 };

  it('engine exact', () => {
    for (const models of [1, 5, 100, 300].map(modelsOf))
      for (const threads of [1, 3, 16])
        for (const inPlace of [false, true])
          for (const basis of [false, true])
            for (const tilesAtOnce of slots.length === 1 && !basis ? [undefined, 1, 2, 32] : [undefined]) {
              const exact: MemoryNeeds = { ...needs, models, threads, inPlace, basis, engine: 'exact' };
              const parts = tilesAtOnce === undefined ? {} : { tilesAtOnce };
              const group: SlotGroup = { index: 0, slots, inFiles: true, ...parts };
              const what = { models: models.length, threads, inPlace, basis, tilesAtOnce };
              check(exact, group, exactLayouts(exact, group), what);
            }
  });

  it('engine incremental', () => {
    for (const models of [2, 5, 100].map(modelsOf))
      for (const threads of [1, 3, 16]) {
        const incremental: MemoryNeeds = { ...needs, models, threads, basis: true, engine: 'incremental' };
        const group: SlotGroup = { index: 0, slots, inFiles: true };
        check(incremental, group, [incrementalLayouts(incremental, group)], { models: models.length, threads });
      }
  });
});
