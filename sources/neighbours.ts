// Tensors of a model in the order of its files, those that stand together put together: a run is read by one call.
import type { TensorEntry } from './model.ts';

/** Bytes between two tensors that are read over rather than skipped. */
const LARGEST_GAP = 16_384;
/** One read's size at most, so that a run can stop between reads. */
const LARGEST_READ = 16 * 2 ** 20;

/** Splits a model's tensors into runs of neighbours. */
export const neighboursOf = <S extends { readonly tensor: TensorEntry }>(
  segments: readonly S[],
): readonly (readonly S[])[] => {
  const ordered = [...segments].sort((a, b) => a.tensor.file - b.tensor.file || a.tensor.offset - b.tensor.offset);
  const runs: S[][] = [];
  let size = 0;
  for (const segment of ordered) {
    const before = runs.at(-1)?.at(-1)?.tensor;
    const { tensor } = segment;
    const gap =
      before === undefined || before.file !== tensor.file ? -1 : tensor.offset - before.offset - before.byteLength;
    if (gap >= 0 && gap <= LARGEST_GAP && size + gap + tensor.byteLength <= LARGEST_READ) {
      runs.at(-1)!.push(segment);
      size += gap + tensor.byteLength;
    } else {
      runs.push([segment]);
      size = tensor.byteLength;
    }
  }
  return runs;
};
