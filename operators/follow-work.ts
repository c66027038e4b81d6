// One thread's work for directions that are followed (followed-scatter.ts): some features of the side. Vectors of a side stand in
// memory as samples do: in rows in mode rows, in columns in mode cols, so that one kernel multiplies both.
import type { Device, Samples } from './devices/device.ts';
import type { FollowTask, TurnTask } from './scatter-tasks.ts';

/** The features of the task as what is summed over; vectors of the state, or the samples, are the entries. */
const overFeatures = ({ mode, shape, samples, range, features, state, stateRows, mostRows }: FollowTask | TurnTask) => {
  const { stride } = shape;
  const first = range.model * shape.rows * stride;
  const count = features.to - features.from;
  const own = new Float32Array(state);
  const all = new Float32Array(samples);
  const b = range.to - range.from;
  if (mode === 'rows') {
    const side = shape.cols;
    const stand = 'columns' as const;
    return {
      state: { values: own.subarray(features.from), stride: side, stand, side: stateRows, count },
      added: { values: all.subarray(first + range.from * stride + features.from), stride, stand, side: b, count },
    };
  }
  const stand = 'rows' as const;
  return {
    state: { values: own.subarray(features.from * mostRows), stride: mostRows, stand, side: stateRows, count },
    added: { values: all.subarray(first + features.from * stride + range.from), stride, stand, side: b, count },
  };
};

export const follow = (device: Device, task: FollowTask): Float64Array => {
  const { state, added } = overFeatures(task);
  const [r, b] = [state.side, added.side];
  const out = new Float64Array((r + b) * b);
  const columns = { from: 0, to: b };
  if (r > 0) device.addCross(state, { from: 0, to: r }, added, columns, out.subarray(0, r * b));
  device.addCross(added, columns, added, columns, out.subarray(r * b));
  return out;
};

export const turn = (device: Device, task: TurnTask): null => {
  const { mode, mix, newRows, features, mostRows, shape } = task;
  const vectors = overFeatures(task);
  const [r, b] = [vectors.state.side, vectors.added.side];
  const count = features.to - features.from;
  const sum = new Float64Array(newRows * count);
  // What was summed over are the entries now, and what were entries is summed over.
  const turned = ({ values, stride, side, stand }: Samples): Samples => ({
    values,
    stride,
    stand: stand === 'rows' ? 'columns' : 'rows',
    side: count,
    count: side,
  });
  const weights = (start: number, some: number): Samples => {
    const values = new Float32Array(newRows * some);
    for (let j = 0; j < newRows; j++) {
      for (let i = 0; i < some; i++)
        values[mode === 'rows' ? i * newRows + j : j * some + i] = mix[j * (r + b) + start + i]!;
    }
    const stride = mode === 'rows' ? newRows : some;
    return { values, stride, stand: mode === 'rows' ? 'rows' : 'columns', side: newRows, count: some };
  };
  const [byRow, byFeature] = [
    { from: 0, to: newRows },
    { from: 0, to: count },
  ];
  for (const [start, some, of] of [
    [0, r, vectors.state],
    [r, b, vectors.added],
  ] as const) {
    if (some === 0 || newRows === 0) continue;
    if (mode === 'rows') device.addCross(weights(start, some), byRow, turned(of), byFeature, sum);
    else device.addCross(turned(of), byFeature, weights(start, some), byRow, sum);
  }
  const into = new Float32Array(task.into);
  if (mode === 'rows') {
    for (let j = 0; j < newRows; j++)
      into.set(sum.subarray(j * count, (j + 1) * count), j * shape.cols + features.from);
  } else {
    for (let i = 0; i < count; i++)
      into.set(sum.subarray(i * newRows, (i + 1) * newRows), (features.from + i) * mostRows);
  }
  return null;
};
