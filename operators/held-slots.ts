// What a thread holds of a group's slots: their tiles, each in panels as wide as the device likes them, and matrices in which panels
// that have none of their own take turns.
import { stretchWidth, TILE_WIDTH, type Tile, type TileRange, tilesOf } from '../sources/tile.ts';
import { type CommonPanels, exchangeWithSpare, memoryOf } from './common-panels.ts';
import type { Device, DeviceMatrix } from './devices/device.ts';
import { SpillFiles } from './spill-files.ts';
import type { SlotLayout } from './tile-tasks.ts';
import { rowsBeforeBlock } from './update-subspace.ts';

/** Features [start, start + width) of a tile. */
export interface Panel {
  /** Among all panels of its slot. */
  readonly index: number;
  readonly start: number;
  readonly width: number;
  matrix: DeviceMatrix;
  /** Where directions are kept, when the block does not stay; null where none are, or in files. */
  readonly kept: DeviceMatrix | null;
}

export interface HeldTile extends Tile {
  readonly panels: readonly Panel[];
}

/** Features of a tile that are read together: all of them, or as many as are read to their place at once. */
export type Stretch = HeldTile;

export interface HeldSlot {
  readonly layout: SlotLayout;
  readonly tiles: readonly HeldTile[];
  /** Features that `turning` has room for, where rows are read to their place in it; null where it has a panel at a time. */
  readonly stretch: number | null;
  /** The matrix in which each panel takes its turn, where panels have none of their own between visits. */
  turning: DeviceMatrix | null;
  /** Whether nothing of a panel stays with it between visits. */
  readonly isPassing: boolean;
  /** Where a spilled slot's panels are between visits. */
  readonly files: SpillFiles | null;
  /** Where panels are that other threads visit too; null where this one has its own. */
  readonly common: CommonPanels | null;
  /** Of each of the slot's tiles: Σ of its shift's entries. */
  readonly shiftSums: Float64Array;
  spare: DeviceMatrix;
}

/** Null where a slot has no tiles here. */
export interface HeldSlots {
  readonly slots: readonly (HeldSlot | null)[];
  /** In which the rows of all slots pass that have no panels of their own between visits; null where there are none. */
  readonly passing: DeviceMatrix | null;
}

export const NOTHING_HELD: HeldSlots = { slots: [], passing: null };

/**
 * Makes room for those tiles of a group of slots for which `owns` says yes.
 * @param common of each slot the panels that other threads have too
 */
export const holdSlots = (
  device: Device,
  slots: readonly SlotLayout[],
  owns: (slot: number, tile: number) => boolean,
  common: readonly (CommonPanels | null)[],
): HeldSlots => {
  const owned = slots.map(({ features }, slot) => tilesOf(features).filter((tile) => owns(slot, tile.index)));
  const passing = passingMatrix(
    device,
    slots.filter((_, slot) => owned[slot]!.length > 0),
  );
  const held = slots.map((layout, slot) =>
    owned[slot]!.length === 0 ? null : holdSlot(device, layout, owned[slot]!, passing, common[slot] ?? null),
  );
  return { slots: held, passing };
};

const passingMatrix = (device: Device, slots: readonly SlotLayout[]): DeviceMatrix | null => {
  const layouts = slots.filter(({ passingRows }) => passingRows !== null);
  if (layouts.length === 0) return null;
  const rows = Math.max(...layouts.map(({ passingRows }) => passingRows!));
  return device.allocate(rows, Math.max(...layouts.map((layout) => passingWidth(device, layout))));
};

const holdSlot = (
  device: Device,
  layout: SlotLayout,
  tiles: readonly Tile[],
  passing: DeviceMatrix | null,
  common: CommonPanels | null,
): HeldSlot => {
  const { maxRows, passingRows, spill } = layout;
  const widest = common?.width ?? panelWidth(device, layout);
  const panelsInTile = Math.ceil(Math.min(layout.features, TILE_WIDTH) / widest);
  const allocate = (rows: number, width: number): DeviceMatrix => device.reshape(device.allocate(rows, widest), width);
  const turningMatrix = (): DeviceMatrix | null => {
    if (passingRows !== null) return device.reshape(passing!, passingWidth(device, layout));
    return spill === null ? null : allocate(maxRows, widest);
  };
  const turning = turningMatrix();
  const keeps = passingRows !== null && spill === null && maxRows > 0;
  const isPassing = turning !== null && !keeps;
  const matrixOf = (panel: number, width: number): DeviceMatrix =>
    common === null ? allocate(maxRows, width) : device.matrixAt!(memoryOf(common, panel), maxRows, width);
  const panelsOf = (tile: Tile): readonly Panel[] =>
    range(Math.ceil(tile.width / widest)).map((i) => {
      const index = tile.index * panelsInTile + i;
      const start = i * widest;
      const width = Math.min(widest, tile.width - start);
      const matrix = turning ?? matrixOf(index, width);
      return { index, start, width, matrix, kept: keeps ? matrixOf(index, width) : null };
    });
  return {
    layout,
    // Panels that keep nothing, or that are not this thread's alone, are made when they are visited: of a large slot they would be tens
    // of megabytes in every thread.
    tiles: tiles.map((tile): HeldTile => {
      const held = isPassing || common !== null ? null : panelsOf(tile);
      return {
        ...tile,
        get panels() {
          return held ?? panelsOf(tile);
        },
      };
    }),
    turning,
    stretch: readsInPlace(device, layout) ? passingWidth(device, layout) : null,
    isPassing,
    files: spill === null ? null : new SpillFiles(spill),
    common,
    shiftSums: common?.shiftSums ?? new Float64Array(Math.ceil(layout.features / TILE_WIDTH)),
    spare: common?.spare == null ? allocate(Math.max(maxRows, 1), widest) : matrixOf(common.spare, widest),
  };
};

/** A panel's matrix and the spare one, which has its width, change places. */
export const exchange = (slot: HeldSlot, panel: Panel): void => {
  [panel.matrix, slot.spare] = [slot.spare, panel.matrix];
  if (slot.common !== null) exchangeWithSpare(slot.common, panel.index);
};

/** Gives the matrices back, and closes files. */
export const freeSlots = (device: Device, { slots, passing }: HeldSlots): void => {
  for (const slot of slots) {
    if (slot === null) continue;
    slot.files?.close();
    const panels = slot.isPassing || slot.common !== null ? [] : slot.tiles.flatMap((tile) => tile.panels);
    const own = slot.turning === null ? panels.map(({ matrix }) => matrix) : passes(slot) ? [] : [slot.turning];
    const kept = panels.flatMap((panel) => panel.kept ?? []);
    const spare = slot.common !== null && slot.common.spare !== null ? [] : [slot.spare];
    for (const matrix of [...spare, ...own, ...kept]) device.free(matrix);
  }
  if (passing !== null) device.free(passing);
};

/** Features of the widest panel. */
const panelWidth = (device: Device, { features, maxRows, passingRows, careful = false }: SlotLayout): number =>
  Math.min(features, device.panelFor(Math.max(maxRows, passingRows ?? 0), careful));

const readsInPlace = (device: Device, { passingRows, inPlace = false }: SlotLayout): boolean =>
  inPlace && passingRows !== null && device.inPlace !== undefined;

/** Features of the matrix in which a slot's rows pass: whole panels. */
const passingWidth = (device: Device, layout: SlotLayout): number => {
  const panel = panelWidth(device, layout);
  if (!readsInPlace(device, layout)) return panel;
  const most = stretchWidth(layout.passingRows! - rowsBeforeBlock(0));
  return Math.min(layout.features, Math.max(1, Math.floor(most / panel)) * panel);
};

/** Whether no block stays in a slot's tiles. */
export const passes = ({ layout }: HeldSlot): boolean => layout.passingRows !== null;

/** What is read of a tile at a time, in order. */
export const stretchesOf = ({ stretch }: HeldSlot, { index, start, width, panels }: HeldTile): readonly Stretch[] => {
  if (stretch === null) return [{ index, start, width, panels }];
  return range(Math.ceil(width / stretch)).map((i) => {
    const from = i * stretch;
    const to = Math.min(from + stretch, width);
    const some = panels.filter((panel) => panel.start >= from && panel.start < to);
    return { index, start: start + from, width: to - from, panels: some };
  });
};

export const tilesIn = ({ tiles }: HeldSlot, range: TileRange | null): readonly HeldTile[] =>
  range === null ? tiles : tiles.filter(({ index }) => index >= range.from && index < range.to);

/** Where a panel's rows begin in a spill file, in bytes. */
export const placeOf = ({ layout }: HeldSlot, tile: HeldTile, panel: Panel): number =>
  (tile.start + panel.start) * layout.maxRows * 4;

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
