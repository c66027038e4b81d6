// What the plan counts of the engine exact against what threads ask of their device, each for itself or all together: never less, and
// where tiles are dealt evenly the same.
import { expect, it } from 'vitest';
import { placePanels } from '../../operators/common-panels.ts';
import { blasDevice, blasFloats } from '../../operators/devices/blas-device.ts';
import type { BlasLibrary } from '../../operators/devices/blas-library.ts';
import type { Device } from '../../operators/devices/device.ts';
import { passingLayout } from '../../operators/exact-pca.ts';
import { dealTiles, isShared } from '../../operators/tile-pool.ts';
import { TileStore } from '../../operators/tile-store.ts';
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
const allocated = (needs: MemoryNeeds, group: SlotGroup, haveCommon: boolean): number => {
  let bytes = 0;
  const arena = {
    buffers: [],
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
  const layouts = group.slots.map((slot) => {
    const layout = passingLayout(slot, group, needs.models);
    const maxRows = needs.basis ? rowsBeforeBlock(Math.min(RANK, needs.models.length, slot.features)) : 0;
    return { ...layout, maxRows };
  });
  // A pass for the Gram, and one for directions, which takes the place of it.
  const [gram, directions] = [layouts.map((layout) => ({ ...layout, maxRows: 0 })), layouts].map((slots) => {
    bytes = 0;
    const areShared = slots.map((layout) => isShared(layout, haveCommon));
    const dealt = dealTiles(slots, needs.threads, areShared);
    const common = slots.map((layout, slot) => {
      if (!areShared[slot] || layout.maxRows === 0) return [];
      const threads = dealt.filter((owned) => owned[slot]!.length > 0).length;
      return placePanels(arena, layout, { panel: needs.panel, floatsOf: blasFloats }, threads);
    });
    for (const owned of dealt) {
      const seen = common.map((panels) => panels[0] ?? null);
      new TileStore(device).open(slots, (slot, tile) => owned[slot]!.includes(tile), seen);
    }
    return bytes;
  });
  return Math.max(gram!, needs.basis ? directions! : 0);
};

const wide = 16 * TILE_WIDTH;
const groups: readonly (readonly [string, readonly PlannedSlot[]])[] = [
  ['a slot of 16 tiles', [slotOf(0, wide)]],
  ['of less than a panel', [slotOf(0, 300)]],
  ['five slots of a tile each', [0, 1, 2, 3, 4].map((id) => slotOf(id, 5000))],
  ['a narrow slot in float32, and a wide one that is not', [slotOf(0, 7000), slotOf(1, wide, 'BF16')]],
  ['many', Array.from({ length: 30 }, (_, id) => slotOf(id, 100 + 3000 * id, id % 3 === 0 ? 'F16' : 'F32'))],
];

it.each(groups)('%s', (_, slots) => {
  for (const models of [1, 5, 100, 300].map(modelsOf))
    for (const threads of [1, 3, 16])
      for (const inPlace of [false, true])
        for (const basis of [false, true])
          for (const tilesAtOnce of slots.length === 1 && !basis ? [undefined, 1, 2, 32] : [undefined]) {
            const needs = { ...memoryNeeds, models, threads, inPlace, basis, rank: RANK, block: 32, memory: 0 };
            const exact: MemoryNeeds = { ...needs, engine: 'exact' };
            const parts = tilesAtOnce === undefined ? {} : { tilesAtOnce };
            const group: SlotGroup = { index: 0, slots, inFiles: true, ...parts };
            const counted = groupMemory(exact, group).state;
            for (const haveCommon of [false, true]) {
              const made = allocated(exact, group, haveCommon);
              const what = JSON.stringify({ models: models.length, threads, inPlace, basis, tilesAtOnce, haveCommon });
              expect(made, what).toBeLessThanOrEqual(counted);
              if (slots.length === 1) expect(made, what).toBeGreaterThan(0.9 * counted);
            }
          }
});
