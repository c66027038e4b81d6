// What tables tell of a slot's models and of the stream so far: from the blocks that the engine `incremental` left in the
// spool, or from the prefixes that the engine `exact` looked at. The same rows either way.
import type { ExactSlot } from '../operators/exact-pca.ts';
import type { DoubleProduct } from '../operators/linalg/dense-products.ts';
import type { SubspaceEstimate } from '../operators/subspace.ts';
import { type FinalCoefficients, finalCoefficients } from './final-coefficients.ts';
import { driftValues, type SpooledUpdate, scoreValues, type UpdateSpool } from './update-spool.ts';

export interface SlotHistory {
  /** In the order of the stream; together they have every model once. */
  readonly updates: readonly SpooledUpdate[];
  readonly final: FinalCoefficients;
}

export const spooledHistory = (
  spool: UpdateSpool,
  { slot, signs }: SubspaceEstimate,
  product: DoubleProduct,
): SlotHistory => ({
  updates: Array.from({ length: spool.count(slot.id) }, (_, i) => spool.read(slot.id, i)),
  final: finalCoefficients(spool, slot.id, signs, product),
});

export const exactHistory = ({
  models,
  estimate,
  spectrum,
}: Pick<ExactSlot, 'models' | 'estimate' | 'spectrum'>): SlotHistory => {
  const { spec, signs } = estimate;
  const { rank, norm2 } = spectrum;
  const none = new Float64Array(0);
  let from = 0;
  const updates = spectrum.prefixes.map(({ prefix, eigenvalues, total, arrived, drift }): SpooledUpdate => {
    const modelIds = Float64Array.from(models.slice(from, prefix.models), ({ id }) => id);
    from = prefix.models;
    return {
      block: prefix.block,
      modelIds,
      modelsSeen: prefix.models,
      oldRows: 0,
      newRows: 0,
      total,
      lost: 0,
      eigenvalues,
      drift: driftValues(drift, spec.rank),
      scores: scoreValues(arrived),
      coordinates: none,
      rotation: none,
      offset: none,
      gradient: none,
      constant: 0,
    };
  });
  const coordinates = spectrum.coordinates.map((value, i) => value * signs[i % rank]!);
  const captured2 = norm2.map((_, i) =>
    coordinates.subarray(i * rank, (i + 1) * rank).reduce((sum, value) => sum + value * value, 0),
  );
  return { updates, final: { modelIds: Int32Array.from(models, ({ id }) => id), norm2, coordinates, captured2 } };
};
