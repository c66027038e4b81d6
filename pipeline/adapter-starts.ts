// Which adapters of a run began at the same random A, found before anything is folded: the A factors of all modules are read
// once more for it, sketched, and compared. A model that cannot be read is left alone here; the stream says what is wrong.
// Cost: half of the factors' bytes, 10 ns a weight of A, N² · 2,048 flops. Memory: 16 KiB a model.
import { type AdapterSketch, addModule, emptySketch } from '../operators/adapter-sketch.ts';
import { effectiveModels } from '../operators/effective-models.ts';
import type { DoubleProduct } from '../operators/linalg/dense-products.ts';
import { type SeedGroups, seedGroups } from '../operators/seed-groups.ts';
import { widenToDouble } from '../sources/dtype.ts';
import { SourceMalformed, SourceUnavailable } from '../sources/errors.ts';
import type { Dtype, TensorEntry } from '../sources/model.ts';
import type { PlannedModel, PlannedSlot } from '../sources/reading-plan.ts';
import { SourceFiles } from '../sources/source-files.ts';
import type { Finding } from './find-warnings.ts';
import type { Plan } from './plan.ts';

/** A module's A, as stored: rank x (a layer's inputs). */
interface ModuleFactor {
  readonly module: string;
  readonly tensor: TensorEntry;
}

const LORA_A = '.lora_A';

const factorsOf = (slots: readonly PlannedSlot[], model: PlannedModel): readonly ModuleFactor[] =>
  slots
    .flatMap((slot): readonly ModuleFactor[] => {
      const tensor = slot.tensorIn(model);
      if (tensor.lora !== undefined) return [{ module: slot.name, tensor: tensor.lora.a }];
      return slot.name.endsWith(LORA_A) ? [{ module: slot.name.slice(0, -LORA_A.length), tensor }] : [];
    })
    .sort((a, b) => a.tensor.file - b.tensor.file || a.tensor.offset - b.tensor.offset);

export class AdapterStarts {
  readonly #indices: ReadonlyMap<number, number>;
  readonly #found: SeedGroups;
  readonly #groupOf = new Map<number, string>();

  private constructor(models: readonly PlannedModel[], found: SeedGroups) {
    this.#found = found;
    this.#indices = new Map(models.map(({ id }, i) => [id, i]));
    found.groups.forEach((group, g) => {
      for (const i of group) this.#groupOf.set(models[i]!.id, `start-${g + 1}`);
    });
  }

  /** Null where the run is not one over adapters. */
  static async find({ models, slots }: Plan, product: DoubleProduct): Promise<AdapterStarts | null> {
    if (models.every(({ header }) => header.adapter === undefined)) return null;
    const files = new SourceFiles();
    const sketches: AdapterSketch[] = [];
    for (const model of models) sketches.push(await sketchOf(files, model, factorsOf(slots, model)));
    return new AdapterStarts(models, seedGroups(sketches, product));
  }

  /** The group of a model, by its id; null where it shares its start with no other. */
  groupOf(id: number): string | null {
    return this.#groupOf.get(id) ?? null;
  }

  /** How many models some are worth, by their ids (effective-models.ts). */
  effective(ids: ArrayLike<number>): number {
    const models = Array.from(ids, (id) => this.#indices.get(id)!);
    return effectiveModels(models, this.#found, { duplicateOf: new Int32Array(this.#indices.size).fill(-1) }).effective;
  }

  /** What is to be said of them; null where all began apart. */
  get finding(): Finding | null {
    const { groups } = this.#found;
    if (groups.length === 0) return null;
    const count = this.#groupOf.size;
    const largest = groups.reduce((most, { length }) => Math.max(most, length), 0);
    const all = this.#indices.size;
    const share = `${count} of ${all} adapters (${Math.round((100 * count) / all)}%)`;
    const among =
      groups.length === 1
        ? 'one initialisation of A'
        : `${groups.length} initialisations of A (the largest group has ${largest})`;
    const text =
      `${share} share ${among}: what these have in common may be where they began and not what they learned; ` +
      `all ${all} together count as ${this.effective([...this.#indices.keys()]).toFixed(1)} independent ones (n_effective)`;
    return { code: 'shared-start', slot: null, slotId: null, model: null, modelId: null, value: count, text };
  }
}

const sketchOf = async (
  files: SourceFiles,
  model: PlannedModel,
  factors: readonly ModuleFactor[],
): Promise<AdapterSketch> => {
  const used = new Set(factors.map(({ tensor }) => model.header.files[tensor.file]!));
  for (const file of used) files.hold(file);
  try {
    let sketch = emptySketch;
    for (const { module, tensor } of factors) {
      const bytes = new Uint8Array(tensor.byteLength);
      await files.read(model.header.files[tensor.file]!, tensor.offset, [bytes]);
      const values = Float32Array.from(widenToDouble(tensor.dtype as Dtype, bytes));
      sketch = addModule(sketch, module, values, tensor.shape[0]!);
    }
    return sketch;
  } catch (error) {
    const isOfSource = error instanceof SourceMalformed || error instanceof SourceUnavailable;
    // Not finite: the stream will find it too.
    if (isOfSource || error instanceof RangeError) return emptySketch;
    throw error;
  } finally {
    for (const file of used) await files.release(file);
  }
};
