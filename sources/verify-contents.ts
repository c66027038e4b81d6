// `--verify`: reads every weight of a plan once beforehand, so that a run is all or nothing: short reads, NaN, Inf and
// weights too large to square are found before anything is folded. Also the one time a model's files are read whole and
// in order, which is what its content_sha256 needs. Memory: 4 MiB a model at work.
import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import { Effect } from 'effect';
import { badWeightDetail, firstBadWeight } from './bad-weight.ts';
import { displayName } from './display-name.ts';
import { bytesPerElement, widen } from './dtype.ts';
import { SourceMalformed, SourceUnavailable } from './errors.ts';
import type { Dtype, TensorEntry } from './model.ts';
import { type PlannedModel, type ReadingPlan, storedTensors } from './reading-plan.ts';

const PIECE = 4 * 2 ** 20;
const MODELS_AT_ONCE = 4;

export interface VerifiedContents {
  /** sha256 (hex) of each sound model's bytes, by model_id. */
  readonly digests: ReadonlyMap<number, string>;
  /** Models with a fault, and the first of it. */
  readonly faults: ReadonlyMap<PlannedModel, SourceMalformed | SourceUnavailable>;
}

/** Reads all bytes of all models (and the base). Faults are collected, not raised. */
export const verifyContents = (plan: ReadingPlan): Effect.Effect<VerifiedContents> => {
  const models = [...plan.models, ...(plan.base === null ? [] : [plan.base])];
  const slots = plan.groups.flatMap((group) => group.slots);
  const digests = new Map<number, string>();
  const faults = new Map<PlannedModel, SourceMalformed | SourceUnavailable>();
  return Effect.forEach(
    models,
    (model) =>
      Effect.promise(async () => {
        try {
          digests.set(model.id, await readWhole(model, new Set(slots.flatMap((slot) => storedTensors(slot, model)))));
        } catch (cause) {
          if (!(cause instanceof SourceMalformed || cause instanceof SourceUnavailable)) throw cause;
          faults.set(model, cause);
        }
      }),
    { concurrency: MODELS_AT_ONCE, discard: true },
  ).pipe(Effect.map(() => ({ digests, faults })));
};

const readWhole = async (model: PlannedModel, used: ReadonlySet<TensorEntry>): Promise<string> => {
  const hash = createHash('sha256');
  const piece = new Uint8Array(PIECE);
  const floats = new Float32Array(PIECE);
  for (const [index, file] of model.header.files.entries()) {
    const tensors = [...used].filter((tensor) => tensor.file === index).sort((a, b) => a.offset - b.offset);
    const handle = await open(file.path).catch((cause: Error) => {
      throw new SourceUnavailable({ path: file.path, detail: `cannot be opened: ${cause.message}` });
    });
    try {
      let next = 0;
      for (let at = 0; at < file.size; ) {
        // Pieces end where a tensor begins or ends, so that a piece is one tensor's or nobody's.
        while (next < tensors.length && at >= tensors[next]!.offset + tensors[next]!.byteLength) next++;
        const tensor = tensors[next];
        const inside = tensor !== undefined && at >= tensor.offset;
        const border = tensor === undefined ? file.size : inside ? tensor.offset + tensor.byteLength : tensor.offset;
        const bytes = piece.subarray(0, Math.min(PIECE, border - at));
        await readFully(handle, file.path, bytes, at);
        hash.update(bytes);
        if (inside) checkWeights(file.path, tensor, bytes, at, floats);
        at += bytes.length;
      }
    } finally {
      await handle.close();
    }
  }
  return hash.digest('hex');
};

const readFully = async (
  handle: Awaited<ReturnType<typeof open>>,
  path: string,
  bytes: Uint8Array,
  position: number,
): Promise<void> => {
  for (let done = 0; done < bytes.length; ) {
    const { bytesRead } = await handle.read(bytes, done, bytes.length - done, position + done).catch((cause: Error) => {
      throw new SourceUnavailable({ path, detail: `cannot be read at byte ${position + done}: ${cause.message}` });
    });
    if (bytesRead === 0) {
      const detail = `ends at byte ${position + done}, expected ${bytes.length - done} more`;
      throw new SourceMalformed({ path, rule: 'short-read', detail });
    }
    done += bytesRead;
  }
};

const checkWeights = (path: string, tensor: TensorEntry, bytes: Uint8Array, at: number, floats: Float32Array): void => {
  const dtype = tensor.dtype as Dtype;
  const size = bytesPerElement(dtype);
  const values = floats.subarray(0, bytes.length / size);
  widen(dtype, bytes, values);
  const bad = firstBadWeight(values);
  if (bad < 0) return;
  const detail = badWeightDetail((at - tensor.offset) / size + bad, values[bad]!);
  throw new SourceMalformed({ path, tensor: displayName(tensor.name), rule: 'not-finite', detail });
};
