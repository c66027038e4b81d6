// A weight batch: stored rows as an Arrow RecordBatch over the same memory, one row a model, for whoever takes them elsewhere.
// Zero-copy both ways; building one costs about 16 µs. `slice()` of apache-arrow is never used here (it applies its offset
// twice).
import {
  type DataType,
  Field,
  FixedSizeList,
  Float16,
  Float32,
  Float64,
  Int32,
  makeData,
  RecordBatch,
  Schema,
  Struct,
  Uint8,
  Uint16,
} from 'apache-arrow';
import { bytesPerElement } from './dtype.ts';
import type { Dtype } from './model.ts';
import { type StoredRows, storedRows, type WeightBatchDescriptor } from './weight-rows.ts';

const arrowType: Record<Dtype, () => DataType> = {
  F64: () => new Float64(),
  F32: () => new Float32(),
  F16: () => new Float16(),
  BF16: () => new Uint16(),
  F8_E4M3: () => new Uint8(),
  F8_E5M2: () => new Uint8(),
};

const typedView = (dtype: Dtype, bytes: Uint8Array): ArrayBufferView => {
  const length = bytes.byteLength / bytesPerElement(dtype);
  const { buffer, byteOffset } = bytes;
  if (dtype === 'F64') return new Float64Array(buffer, byteOffset, length);
  if (dtype === 'F32') return new Float32Array(buffer, byteOffset, length);
  if (dtype === 'F16' || dtype === 'BF16') return new Uint16Array(buffer, byteOffset, length);
  return bytes;
};

/**
 * Wraps bytes as a RecordBatch of two columns: `model` int32 and `weights` FixedSizeList<T>[stop − start].
 * bfloat16 travels as uint16, float8 as uint8; the schema's metadata names the dtype.
 * @throws RangeError when the bytes do not hold exactly one row a model (Arrow itself does not check)
 */
export const makeWeightBatch = (descriptor: WeightBatchDescriptor): RecordBatch => {
  const { slot, dtype, start, stop, models } = descriptor;
  const { width, bytes } = storedRows(descriptor);
  const element = arrowType[dtype]();
  const list = new FixedSizeList(width, new Field('item', element, false));
  const schema = new Schema(
    [new Field('model', new Int32(), false), new Field('weights', list, false)],
    new Map([
      ['slot', slot],
      ['mode', 'models'],
      ['dtype', dtype],
      ['tile_start', String(start)],
      ['tile_stop', String(stop)],
    ]),
  );
  const child = makeData({ type: element, length: models.length * width, data: typedView(dtype, bytes) } as never);
  const weights = makeData({ type: list, length: models.length, nullCount: 0, child } as never);
  const ids = makeData({ type: new Int32(), length: models.length, data: models });
  return new RecordBatch(
    schema,
    makeData({
      type: new Struct(schema.fields),
      length: models.length,
      nullCount: 0,
      children: [ids, weights],
    }) as never,
  );
};

/** Reads a batch back without copying. */
export const weightRows = (batch: RecordBatch): StoredRows => {
  const dtype = batch.schema.metadata.get('dtype') as Dtype;
  const [ids, weights] = batch.data.children;
  const list = weights!.type as unknown as FixedSizeList;
  const values = weights!.children[0]!.values as ArrayBufferView;
  const stride = list.listSize * bytesPerElement(dtype);
  return {
    kind: 'stored',
    dtype,
    width: list.listSize,
    // Arrow pads buffers that travelled as a stream.
    models: (ids!.values as Int32Array).subarray(0, batch.numRows),
    bytes: new Uint8Array(values.buffer, values.byteOffset, batch.numRows * stride),
    stride,
  };
};
