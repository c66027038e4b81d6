// Slots as grids of layer x module, where their names allow it: the first segment of a name that is a number is the layer,
// what stands around it the module. Names without a number, and modules of a single layer, are a list.

export interface SlotGrid {
  /** What stands before the layer's number. */
  readonly prefix: string;
  readonly layers: readonly number[];
  readonly modules: readonly { readonly name: string; readonly cells: readonly (number | null)[] }[];
}

export interface SlotLayout {
  readonly grids: readonly SlotGrid[];
  /** Slots in no grid. */
  readonly others: readonly number[];
}

interface Placed {
  readonly prefix: string;
  readonly layer: number;
  readonly module: string;
}

const placeOf = (name: string): Placed | null => {
  const segments = name.split('.');
  const at = segments.findIndex((segment) => /^\d{1,6}$/.test(segment));
  if (at < 0 || segments.length > 64) return null;
  return {
    prefix: segments.slice(0, at).join('.'),
    layer: Number(segments[at]),
    module: segments.slice(at + 1).join('.'),
  };
};

/** @returns positions in `names` */
export function layOut(names: readonly string[]): SlotLayout {
  const byPrefix = new Map<string, Map<string, Map<number, number>>>();
  const others: number[] = [];
  names.forEach((name, i) => {
    const place = placeOf(name);
    if (place === null) {
      others.push(i);
      return;
    }
    const modules = byPrefix.get(place.prefix) ?? new Map<string, Map<number, number>>();
    byPrefix.set(place.prefix, modules);
    const cells = modules.get(place.module) ?? new Map<number, number>();
    modules.set(place.module, cells);
    // Twice in one place cannot be (`1` and `01`) without two names for it.
    if (cells.has(place.layer)) others.push(i);
    else cells.set(place.layer, i);
  });
  const grids: SlotGrid[] = [];
  for (const [prefix, modules] of byPrefix) {
    const layers = [...new Set([...modules.values()].flatMap((cells) => [...cells.keys()]))].sort((a, b) => a - b);
    if (layers.length < 2) {
      others.push(...[...modules.values()].flatMap((cells) => [...cells.values()]));
      continue;
    }
    grids.push({
      prefix,
      layers,
      modules: [...modules].map(([name, cells]) => ({ name, cells: layers.map((layer) => cells.get(layer) ?? null) })),
    });
  }
  return { grids, others: others.sort((a, b) => a - b) };
}
