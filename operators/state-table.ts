// The small float64 part of slots' states as an Arrow file: what a checkpoint keeps beside the rows. Every number comes back
// with the same bits. One row a slot, in the order of the group.

import {
  Field,
  Float64,
  Int32,
  Int64,
  List,
  makeData,
  RecordBatch,
  Schema,
  Struct,
  Table,
  tableFromIPC,
  tableToIPC,
  type Vector,
} from 'apache-arrow';
import { packShrunk, unpackShrunk } from './keep-rows.ts';
import { joined } from './linalg/array-loops.ts';
import type { Sketch } from './nystrom.ts';
import type { SubspaceState } from './subspace-state.ts';

/** A slot's state between two blocks, with nothing due. */
export interface SavedSlot {
  readonly slotId: number;
  readonly state: SubspaceState;
  /** As in `StoredRows`. */
  readonly map: Float64Array | null;
  readonly norms2: Float64Array | null;
  /** Byte of the rows' file at which the slot begins. */
  readonly rowsAt: number;
}

const scalars = [
  'total',
  'lost',
  'truncation',
  'largestNorm2',
  'meanNorm2',
  'shiftDotMean',
  'shiftNorm2',
  'totalUncentred',
] as const satisfies readonly (keyof SubspaceState)[];

const lists = ['eigenvalues', 'rowsDotMean', 'map', 'norms2', 'sketch', 'shrunk'] as const;

const listOf = ({ state, map, norms2 }: SavedSlot, name: (typeof lists)[number]): Float64Array | null => {
  if (name === 'sketch') return state.sketch === undefined ? null : packSketch(state.sketch);
  if (name === 'shrunk') return state.shrunk === undefined ? null : packShrunk(state.shrunk);
  return { map, norms2, eigenvalues: state.eigenvalues, rowsDotMean: state.rowsDotMean }[name];
};

/** A sketch's parts one after the other, the number of its rows first. */
const packSketch = ({ turn, sumDots, rowDots, core, tests, directions }: Sketch): Float64Array =>
  joined(Float64Array.of(tests.length), tests, sumDots, turn, rowDots, core, directions);

const unpackSketch = (packed: Float64Array): Sketch => {
  const rows = packed[0]!;
  let at = 1;
  const take = (length: number): Float64Array => {
    at += length;
    return packed.slice(at - length, at);
  };
  return {
    tests: take(rows),
    sumDots: take(1 + rows),
    turn: take(rows * rows),
    rowDots: take(rows * rows),
    core: take(rows * rows),
    directions: take(packed.length - at),
  };
};

/** `largestNorm2` as `largest_norm2`: names of columns are those of tables. */
const columnName = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

const float64List = new List(new Field('item', new Float64()));

/** An Arrow IPC file. */
export const encodeStates = (slots: readonly SavedSlot[]): Uint8Array => {
  const length = slots.length;
  const ints = (of: (slot: SavedSlot) => number) =>
    makeData({ type: new Int32(), length, data: Int32Array.from(slots, of) });
  const columns = [
    [new Field('slot_id', new Int32()), ints(({ slotId }) => slotId)],
    [new Field('models', new Int32()), ints(({ state }) => state.models)],
    [
      new Field('rows_at', new Int64()),
      makeData({ type: new Int64(), length, data: BigInt64Array.from(slots, ({ rowsAt }) => BigInt(rowsAt)) }),
    ],
    ...scalars.map((name) => [
      new Field(columnName(name), new Float64()),
      makeData({ type: new Float64(), length, data: Float64Array.from(slots, ({ state }) => state[name]) }),
    ]),
    ...lists.map((name) => [
      new Field(columnName(name), float64List, true),
      listData(slots.map((slot) => listOf(slot, name))),
    ]),
  ] as const;
  const schema = new Schema(columns.map(([field]) => field as Field));
  const children = columns.map(([, data]) => data as ReturnType<typeof makeData>);
  const data = makeData({ type: new Struct(schema.fields), length, nullCount: 0, children });
  return tableToIPC(new Table([new RecordBatch(schema, data)]), 'file');
};

const listData = (values: readonly (Float64Array | null)[]) => {
  const valueOffsets = new Int32Array(values.length + 1);
  const nullBitmap = new Uint8Array(Math.ceil(values.length / 8));
  values.forEach((value, i) => {
    valueOffsets[i + 1] = valueOffsets[i]! + (value?.length ?? 0);
    if (value !== null) nullBitmap[i >> 3] = nullBitmap[i >> 3]! | (1 << (i & 7));
  });
  const all = new Float64Array(valueOffsets[values.length]!);
  values.forEach((value, i) => {
    if (value !== null) all.set(value, valueOffsets[i]!);
  });
  const child = makeData({ type: new Float64(), length: all.length, data: all });
  const nullCount = values.filter((value) => value === null).length;
  return makeData({ type: float64List, length: values.length, nullCount, nullBitmap, valueOffsets, child });
};

/** What `encodeStates` made. Throws RangeError for anything else. */
export const decodeStates = (bytes: Uint8Array): readonly SavedSlot[] => {
  const table = tableFromIPC(bytes);
  const column = (name: string): Vector => {
    const found = table.getChild(columnName(name));
    if (found === null) throw new RangeError(`a table of states without the column ${columnName(name)}`);
    return found;
  };
  const list = (name: (typeof lists)[number], row: number): Float64Array | null => {
    const value = column(name).get(row) as Vector | null;
    return value === null ? null : Float64Array.from(value.toArray() as Float64Array);
  };
  return Array.from({ length: table.numRows }, (_, row): SavedSlot => {
    const number = (name: string): number => Number(column(name).get(row));
    const plain = Object.fromEntries(scalars.map((name) => [name, number(name)])) as Pick<
      SubspaceState,
      (typeof scalars)[number]
    >;
    const eigenvalues = list('eigenvalues', row) ?? new Float64Array(0);
    const sketch = list('sketch', row);
    const shrunk = list('shrunk', row);
    return {
      slotId: number('slotId'),
      rowsAt: number('rowsAt'),
      state: {
        ...plain,
        models: number('models'),
        eigenvalues,
        rowsDotMean: list('rowsDotMean', row) ?? new Float64Array(0),
        ...(sketch === null ? {} : { sketch: unpackSketch(sketch) }),
        ...(shrunk === null ? {} : { shrunk: unpackShrunk(shrunk, eigenvalues.length) }),
      },
      map: list('map', row),
      norms2: list('norms2', row),
    };
  });
};
