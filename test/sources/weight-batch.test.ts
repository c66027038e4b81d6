// Weight batches against apache-arrow's own access: the same numbers, over the same memory.
import { type FixedSizeList, RecordBatchReader, RecordBatchStreamWriter, type Vector } from 'apache-arrow';
import { describe, expect, it } from 'vitest';
import { bytesPerElement } from '../../sources/dtype.ts';
import type { Dtype } from '../../sources/model.ts';
import { makeWeightBatch, weightRows } from '../../sources/weight-batch.ts';
import { storedRow, type WeightBatchDescriptor } from '../../sources/weight-rows.ts';

const dtypes: readonly Dtype[] = ['F64', 'F32', 'F16', 'BF16', 'F8_E4M3', 'F8_E5M2'];
const arrowNames: Record<Dtype, string> = {
  F64: 'Float64',
  F32: 'Float32',
  F16: 'Float16',
  BF16: 'Uint16',
  F8_E4M3: 'Uint8',
  F8_E5M2: 'Uint8',
};

const models = Int32Array.of(7, 2, 40);
const width = 5;
const count = models.length * width;

/** Stored elements of each dtype, and what Arrow shows of them. */
const stored: Record<Dtype, { readonly data: ArrayLike<number>; readonly shown: readonly number[] }> = (() => {
  const halves = Array.from({ length: count }, (_, i) => (i - 7) / 4);
  const integers = Array.from({ length: count }, (_, i) => i * 17);
  // (15 + e) << 10 is 2^e in float16.
  const float16 = Array.from({ length: count }, (_, i) => ((i % 2) << 15) | ((8 + i) << 10));
  const powers = Array.from({ length: count }, (_, i) => (i % 2 === 1 ? -1 : 1) * 2 ** (i - 7));
  return {
    F64: { data: Float64Array.from(halves), shown: halves },
    F32: { data: Float32Array.from(halves), shown: halves },
    F16: { data: Uint16Array.from(float16), shown: powers },
    BF16: { data: Uint16Array.from(integers), shown: integers },
    F8_E4M3: { data: Uint8Array.from(integers), shown: integers },
    F8_E5M2: { data: Uint8Array.from(integers), shown: integers },
  };
})();

/** The dtype's elements in shared memory, behind 64 bytes of something else. */
const descriptorOf = (dtype: Dtype): WeightBatchDescriptor => {
  const data = stored[dtype].data as Uint8Array | Float64Array;
  const shared = new SharedArrayBuffer(64 + data.byteLength + 64);
  const bytes = new Uint8Array(shared, 64, data.byteLength);
  bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  return { slot: 'layer.0/ü', dtype, start: 100, stop: 100 + width, models, bytes };
};

describe.each(dtypes)('a batch of %s', (dtype) => {
  it('is a view of the shared buffer, both ways', () => {
    const descriptor = descriptorOf(dtype);
    const batch = makeWeightBatch(descriptor);
    const values = batch.data.children[1]!.children[0]!.values as Uint8Array;
    expect(values.buffer).toBe(descriptor.bytes.buffer);
    expect([values.byteOffset, values.byteLength]).toEqual([64, descriptor.bytes.byteLength]);
    const rows = weightRows(batch);
    expect(rows.models).toEqual(models);
    expect(rows.models.buffer).toBe(models.buffer);
    const size = bytesPerElement(dtype);
    for (let i = 0; i < models.length; i++) {
      const row = storedRow(rows, i);
      expect(row.buffer).toBe(descriptor.bytes.buffer);
      expect([row.byteOffset, row.byteLength]).toEqual([64 + i * width * size, width * size]);
    }
    descriptor.bytes[width * size] = 0xa5;
    expect(storedRow(rows, 1)[0]).toBe(0xa5);
  });

  it('carries its types, names and metadata', () => {
    const { schema, numRows } = makeWeightBatch(descriptorOf(dtype));
    expect(numRows).toBe(3);
    expect(schema.fields.map(({ name, nullable }) => [name, nullable])).toEqual([
      ['model', false],
      ['weights', false],
    ]);
    const list = schema.fields[1]!.type as FixedSizeList;
    expect(list.listSize).toBe(width);
    expect([String(schema.fields[0]!.type), String(list.children[0]!.type)]).toEqual(['Int32', arrowNames[dtype]]);
    expect(Object.fromEntries(schema.metadata)).toEqual({
      slot: 'layer.0/ü',
      mode: 'models',
      dtype,
      tile_start: '100',
      tile_stop: '105',
    });
    const { width: found, dtype: same } = weightRows(makeWeightBatch(descriptorOf(dtype)));
    expect([found, same]).toEqual([width, dtype]);
  });

  const read = (batch: ReturnType<typeof makeWeightBatch>) => {
    const weights = batch.getChild('weights') as Vector<FixedSizeList>;
    return {
      ids: [...batch.getChild('model')!],
      numbers: [...weights].flatMap((row) => Array.from(row as Iterable<number>)),
    };
  };

  it("reads through Arrow's own vectors", () => {
    const { ids, numbers } = read(makeWeightBatch(descriptorOf(dtype)));
    expect(ids).toEqual([...models]);
    expect(numbers).toEqual(stored[dtype].shown);
  });

  it('goes through the Arrow stream format and back', () => {
    const batch = makeWeightBatch(descriptorOf(dtype));
    const stream = new RecordBatchStreamWriter();
    stream.write(batch);
    stream.finish();
    const [back, ...more] = [...RecordBatchReader.from(stream.toUint8Array(true))];
    expect(more).toEqual([]);
    expect(read(back as never)).toEqual(read(batch));
    // Arrow pads what it reads from a stream: the ids may be followed by zeros.
    const rows = weightRows(back as never);
    expect([rows.dtype, rows.width, [...rows.models.subarray(0, back!.numRows)]]).toEqual([dtype, width, [...models]]);
    expect([...storedRow(rows, 2)]).toEqual([...storedRow(weightRows(batch), 2)]);
  });

  it.each([-1, 1, 8])('refuses bytes that are %i off', (off) => {
    const descriptor = descriptorOf(dtype);
    const bytes = new Uint8Array(descriptor.bytes.byteLength + off);
    const found = `weights of layer.0/ü: ${bytes.byteLength} bytes, expected ${descriptor.bytes.byteLength}`;
    expect(() => makeWeightBatch({ ...descriptor, bytes })).toThrow(new RangeError(found));
  });
});

it('refuses rows that do not match the models', () => {
  const descriptor = descriptorOf('F32');
  expect(() => makeWeightBatch({ ...descriptor, models: Int32Array.of(1, 2) })).toThrow(RangeError);
  expect(() => makeWeightBatch({ ...descriptor, stop: descriptor.stop + 1 })).toThrow(RangeError);
});

it('a batch of no models', () => {
  const batch = makeWeightBatch({ ...descriptorOf('F32'), models: new Int32Array(0), bytes: new Uint8Array(0) });
  expect(batch.numRows).toBe(0);
  expect(weightRows(batch).models).toHaveLength(0);
});
