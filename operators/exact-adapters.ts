// The engine `exact` over adapters by their factors, a stream: module after module the factors of all adapters are read and
// made canonical, the Gram matrix of the ΔW found (mode models) and the scatter matrices (modes rows and cols). No ΔW is
// ever made, so mode models has coefficients over the adapters and no basis.
// Cost and memory: factored-gram.ts, factored-modes.ts. Factors are read once where those of a module fit the memory, else
// once more for every use.
import { concat, concatMap, defer, EMPTY, from, lastValueFrom, mergeMap, type Observable, of, toArray } from 'rxjs';
import type { AdapterFactors } from '../sources/adapter-factors.ts';
import type { PlannedModel, PlannedSlot, ReadingPlan, SlotGroup } from '../sources/reading-plan.ts';
import { weightBytes } from '../sources/reading-plan.ts';
import type { ReadFault, SlotAtHand } from '../sources/staged-block.ts';
import { stagingBytes } from '../sources/staged-block.ts';
import { factorsIn } from '../sources/staged-factors.ts';
import { type WeightBlock, weightBlocks } from '../sources/weight-blocks.ts';
import { modelVectors } from './core-tensor.ts';
import type { ModesOfSlot } from './exact-modes.ts';
import type { ExactPcaOptions, ExactSlot } from './exact-pca.ts';
import { type ExactSpectrum, exactSpectrum, signsOfCoordinates } from './exact-spectrum.ts';
import type { FactorSource } from './factor-stack.ts';
import type { AdapterMode } from './factored-flops.ts';
import { factoredGram } from './factored-gram.ts';
import { factoredModes } from './factored-modes.ts';
import { afterGroup, type BlockUpdate } from './incremental-pca.ts';
import type { SideMode } from './scatter-tasks.ts';

/** Bytes of factors that are read at a time. */
export const FACTORS_AT_ONCE = 2 ** 24;

export interface ExactAdaptersOptions<R>
  extends Pick<
    ExactPcaOptions<R>,
    'rank' | 'tiles' | 'center' | 'onBadSource' | 'solvers' | 'onGram' | 'afterGroup' | 'finish'
  > {
  readonly modes: readonly AdapterMode[];
  /** Measure every adapter along the directions of the modes rows and cols. Default true. */
  readonly energies?: boolean;
  /** Make the core tensor of each slot, in all three modes. Default false. */
  readonly core?: boolean;
  /** Uses a slot's results in the modes rows and cols. Default: emits them. */
  readonly finishModes?: (slot: ModesOfSlot) => Observable<R>;
}

/** Where the adapters of a module stand: those that can be in, with their factors where these stay in memory. */
interface Adapter {
  readonly model: PlannedModel;
  readonly rank: number;
  readonly factors: AdapterFactors | null;
}

/** Models so many at a time that their factors of a slot take about `FACTORS_AT_ONCE` bytes: at least one. */
export const adaptersReadAtOnce = (group: SlotGroup, models: readonly PlannedModel[]): number => {
  const largest = models.reduce((most, model) => Math.max(most, stagingBytes(group, [model])), 1);
  return Math.max(1, Math.min(models.length, Math.floor(FACTORS_AT_ONCE / largest)));
};

/** Streams a plan's groups, which have one slot each: an update a reading, and what is made of each slot's results. */
export const exactAdapters = <R = ExactSlot | ModesOfSlot>(
  plan: ReadingPlan,
  options: ExactAdaptersOptions<R>,
): Observable<BlockUpdate | R> =>
  concat(
    ...plan.groups.map((group) =>
      defer(() => new AdapterGroup(plan, group, options as ExactAdaptersOptions<unknown>).stream()),
    ),
  ) as Observable<BlockUpdate | R>;

class AdapterGroup {
  readonly #plan: ReadingPlan;
  readonly #group: SlotGroup;
  readonly #slot: PlannedSlot;
  readonly #options: ExactAdaptersOptions<unknown>;
  readonly #adapters: Adapter[] = [];

  constructor(plan: ReadingPlan, group: SlotGroup, options: ExactAdaptersOptions<unknown>) {
    this.#plan = plan;
    this.#group = group;
    this.#slot = group.slots[0]!;
    this.#options = options;
  }

  stream(): Observable<unknown> {
    return concat(
      this.#read(),
      defer(() => (this.#adapters.length === 0 ? EMPTY : this.#results())),
      afterGroup(this.#options, this.#group),
    );
  }

  /** Reads the factors of all adapters, to know their ranks and which of them can be in. */
  #read(): Observable<BlockUpdate> {
    const block = adaptersReadAtOnce(this.#group, this.#plan.models);
    return weightBlocks({ ...this.#plan, groups: [this.#group], block }).pipe(
      concatMap((one) => from(this.#readBlock(one))),
    );
  }

  async #readBlock(block: WeightBlock): Promise<BlockUpdate> {
    const start = performance.now();
    const { models } = block;
    const { slots, faults } = await block.read(new SharedArrayBuffer(stagingBytes(this.#group, models)));
    if (faults.length > 0 && this.#options.onBadSource !== 'skip') throw faults[0]!.error;
    const holds = this.#group.factored!.holds;
    for (const { model, factors } of adaptersIn(slots[0]!))
      this.#adapters.push({ model, rank: factors.rank, factors: holds ? factors : null });
    const seconds = (performance.now() - start) / 1e3;
    return {
      ...this.#updateOf(block, faults),
      readSeconds: seconds,
      waitSeconds: seconds,
      tileSeconds: this.#options.tiles.takeTimings(),
    };
  }

  #updateOf({ index, blocks, models, modelsSeen }: WeightBlock, skipped: readonly ReadFault[]) {
    const group = this.#group;
    const bytes = weightBytes(group.slots, models);
    return { kind: 'block', group, index, blocks, modelsSeen, slots: [], skipped, bytes } as const;
  }

  /** The factors of adapters that can be in, as they stay in memory or are read again. */
  #source(): FactorSource {
    const { name, rows, cols } = this.#slot;
    const ranks = this.#adapters.map(({ rank }) => rank);
    return { slot: name, rows, cols, ranks, read: (first, end) => this.#factorsOf(this.#adapters.slice(first, end)) };
  }

  async #factorsOf(some: readonly Adapter[]): Promise<readonly AdapterFactors[]> {
    if (some.length === 0 || some.every(({ factors }) => factors !== null)) return some.map(({ factors }) => factors!);
    const models = some.map(({ model }) => model);
    const plan = { ...this.#plan, models, groups: [this.#group], block: models.length };
    const [block] = await lastValueFrom(weightBlocks(plan).pipe(toArray()));
    const { slots, faults } = await block!.read(new SharedArrayBuffer(stagingBytes(this.#group, models)));
    if (faults.length > 0) throw faults[0]!.error;
    return adaptersIn(slots[0]!).map(({ factors }) => factors);
  }

  #results(): Observable<unknown> {
    const { modes, rank, tiles, center = true, energies = true, core = false } = this.#options;
    const { onGram, finish, finishModes } = this.#options;
    const models = this.#adapters.map(({ model }) => model);
    const slot = this.#slot;
    const source = this.#source();
    const sides = modes.filter((mode): mode is SideMode => mode !== 'models');
    let known: ExactSpectrum | null = null;
    const ofModels = defer(async () => {
      const gram = await factoredGram(source, { tiles, memory: this.#group.factored!.stackBytes });
      onGram?.(slot, models, gram);
      const spec = { features: slot.features, rank, center, shiftIsOrigin: true };
      const spectrum = await exactSpectrum(spec, gram, this.#plan.block, tiles, this.#options.solvers);
      known = spectrum;
      const signs = signsOfCoordinates(spectrum);
      const estimate = { engine: 'exact', slot, spec, state: spectrum.state, rank: spectrum.rank, signs } as const;
      return { kind: 'exact', models, estimate, spectrum, subspace: null } satisfies ExactSlot;
    }).pipe(mergeMap((found) => finish?.(found) ?? of(found)));
    const ofSides = defer(async () => {
      const ofModels = known as ExactSpectrum | null;
      const found = await factoredModes(source, {
        ...{ modes: sides, rank, tiles, center, energies },
        ...(ofModels === null ? {} : { norm2: ofModels.norm2 }),
        ...(ofModels === null || !core ? {} : { core: { models, vectors: modelVectors(models, ofModels) } }),
      });
      return { kind: 'modes', slot, models, ...found } satisfies ModesOfSlot;
    }).pipe(mergeMap((found) => finishModes?.(found) ?? of(found)));
    return concat(modes.includes('models') ? ofModels : EMPTY, sides.length > 0 ? ofSides : EMPTY);
  }
}

/** The adapters of a staged slot that can be in, in order, with views of their factors. */
const adaptersIn = ({
  rows,
  models,
}: SlotAtHand): readonly { readonly model: PlannedModel; readonly factors: AdapterFactors }[] => {
  const [staged] = rows;
  if (staged === undefined || 'fds' in staged) throw new Error('adapters were left in their files');
  const { buffer, factors, positions } = staged;
  const found: { model: PlannedModel; factors: AdapterFactors }[] = [];
  positions.forEach((position, i) => {
    if (position >= 0) found[position] = { model: models[position]!, factors: factorsIn(buffer, factors!, i) };
  });
  return found;
};
