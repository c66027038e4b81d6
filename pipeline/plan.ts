// The plan of a run, from headers alone (and one page of each used tensor, for the fingerprints): every model, every slot,
// what is left out and why, the groups that fit the memory, the bytes and flops. `plan` prints it, `run` executes it.
import { Effect } from 'effect';
import { ConfigInvalid } from '../configs/errors.ts';
import type { RunConfig } from '../configs/run-config.ts';
import { type FoundDevice, findDevice } from '../operators/devices/device-spec.ts';
import { DeviceUnavailable } from '../operators/errors.ts';
import type { EngineName } from '../operators/subspace.ts';
import { growDescriptorTable } from '../sources/descriptor-table.ts';
import { displayName } from '../sources/display-name.ts';
import type { SourceMalformed, SourceUnavailable } from '../sources/errors.ts';
import { withFactorSlots } from '../sources/factor-slots.ts';
import { type FingerprintTask, pagesOf } from '../sources/fingerprint.ts';
import { globMatcher } from '../sources/glob.ts';
import { HeaderWorkers } from '../sources/header-workers.ts';
import type { ModelHeader, ModelLocation } from '../sources/model.ts';
import type { PlannedModel, PlannedSlot, ReadingPlan, SlotGroup } from '../sources/reading-plan.ts';
import { resolveSources } from '../sources/resolve-sources.ts';
import { adapterMemory, groupAdapters } from './adapter-memory.ts';
import type { Begin, ListedModel, MergedRun } from './begin.ts';
import {
  chooseEngine,
  decodeFlops,
  factoredFlopsOf,
  flopsOf,
  isFactored,
  largestSideOf,
  passesOver,
  sideFlopsOf,
  sideModesOf,
  sidePasses,
  writesBasis,
} from './choose-engine.ts';
import { chooseFamily } from './choose-family.ts';
import { type ChosenSlot, chooseSlots, type LeftOutSlot } from './choose-slots.ts';
import {
  type GroupMemory,
  groupMemory,
  groupSides,
  groupSlots,
  type MemoryNeeds,
  sideMemory,
  solversAtOnce,
  spillBytes,
  withStandby,
} from './memory-plan.ts';
import { basisBytes, bytesOver, groupsInOrder } from './plan-figures.ts';
import { shuffled } from './shuffle.ts';

/** A model that will be folded, or the base. */
export interface ModelInPlan extends PlannedModel {
  readonly location: ModelLocation;
  /** sha256, hex. */
  readonly fingerprint: string;
  /** sha256 (hex) of the pages of weights in the fingerprint: equal in copies that are stored in other ways. */
  readonly pages: string;
  /** Bytes of its files. */
  readonly bytes: number;
}

/** Operations of a group's large products, for mode models and for the modes rows and cols. */
export interface GroupFlops {
  readonly models: number;
  readonly sides: number;
}

/** Several slots as one. */
export interface SlotSum {
  /** Counted on after the slots, used and left out. */
  readonly id: number;
  /** `*`: whole models. Else the glob that the slots' names match. */
  readonly name: string;
  readonly slots: readonly PlannedSlot[];
}

/** A model that stays out. */
export interface SkippedModel {
  readonly id: number;
  readonly name: string;
  readonly source: string;
  /** Null where it is not known what was found. */
  readonly kind: 'checkpoint' | 'adapter' | null;
  readonly reason: string;
}

/** Where a run that was interrupted, or is extended, goes on. Slots are done in order. */
export interface Continuation {
  readonly begin: Begin;
  /** Slots whose results stand, in mode models and in the modes rows and cols. */
  readonly done: { readonly models: number; readonly sides: number };
  /** Slots that have a state to go on from, in order from the first that is not done in mode models. */
  readonly saved: readonly {
    readonly slots: number;
    readonly models: number;
    readonly blocks: number;
    /** What the modes rows and cols have of them, where they share the reading. */
    readonly sides: string | null;
  }[];
  /** Groups that are done. */
  readonly groups: number;
  /** Sources whose models are folded too, after all others. */
  readonly added: readonly string[];
}

export interface Plan extends ReadingPlan {
  readonly config: RunConfig;
  /** How many of the models the run and each extension of it added. */
  readonly generations: readonly number[];
  /** The runs that were merged into the first of them; null where its models were read. */
  readonly origin: readonly MergedRun[] | null;
  /** All models whose headers were read. */
  readonly listed: readonly ListedModel[];
  readonly engine: EngineName;
  /** Why `--engine auto` took it; null where it was asked for. */
  readonly engineReason: string | null;
  /** Whether mode models makes directions. */
  readonly basis: boolean;
  readonly models: readonly ModelInPlan[];
  readonly base: ModelInPlan | null;
  readonly skipped: readonly SkippedModel[];
  readonly slots: readonly ChosenSlot[];
  readonly leftOut: readonly LeftOutSlot[];
  /** Whole models and modules: slots that the engine `exact` looks at as one, too. */
  readonly sums: readonly SlotSum[];
  /** Groups of the modes rows and cols, which run after `groups`, those of mode models; either may be none. */
  readonly sideGroups: readonly SlotGroup[];
  /** Of all groups, in the order in which they run, as all that follows. */
  readonly groupMemory: readonly GroupMemory[];
  readonly device: FoundDevice;
  /** Weight bytes that will be streamed, in all passes. */
  readonly bytesToRead: number;
  /** Bytes of the basis and mean files, the bulk of what is written. */
  readonly bytesToWrite: number;
  /** Prefixes of the stream that the engine `exact` solves at once. */
  readonly solvers: number;
  /** Disk that a group whose slot is too large for the memory takes while it runs; 0 for all others. */
  readonly groupSpill: readonly number[];
  /** Floating point operations of the large products, in all and by group. */
  readonly flops: number;
  readonly groupFlops: readonly GroupFlops[];
}

type PlanError = ConfigInvalid | SourceMalformed | SourceUnavailable | DeviceUnavailable;

/** Of a card's free memory, what slots are put together for: the rest is for products on their way, and for other processes. */
const CARD_SHARE = 0.8;
/** What a thread takes of a card beside, at most: cuBLAS's workspace, products on their way, and samples. */
const CARD_THREAD_BYTES = 96 * 2 ** 20;
/** Of a thread: one is filled while the other goes up. */
const CARD_ROW_BUFFERS = 2;

/** A run that was begun on a device that is not here. */
const withoutIt = ({ device, detail }: DeviceUnavailable): DeviceUnavailable =>
  new DeviceUnavailable({
    device,
    detail: `${detail}; the run was begun on this device: --device blas (or tfjs) --allow-inexact goes on without it`,
  });

/** @param going on with a run, as it was begun; its sources are not looked for again */
export const makePlan = (config: RunConfig, going: Continuation | null = null): Effect.Effect<Plan, PlanError> =>
  Effect.acquireUseRelease(
    // Started first: they come up while the device is found.
    Effect.sync(() => {
      void growDescriptorTable();
      return new HeaderWorkers();
    }),
    (workers) => planWith(config, workers, going),
    (workers) => Effect.promise(() => workers.close()),
  );

const planWith = (
  config: RunConfig,
  workers: HeaderWorkers,
  going: Continuation | null,
): Effect.Effect<Plan, PlanError> =>
  Effect.gen(function* () {
    const device = yield* Effect.tryPromise({
      try: () =>
        findDevice(config.device, {
          threads: config.threads,
          begun: going?.begin.device ?? null,
          precision: config.precision === 'tf32' ? 'tf32' : 'float32',
        }),
      catch: (cause) => cause,
    }).pipe(
      Effect.catch((cause) =>
        cause instanceof DeviceUnavailable ? Effect.fail(going === null ? cause : withoutIt(cause)) : Effect.die(cause),
      ),
    );
    const known = going?.begin ?? null;
    const base =
      known !== null
        ? yield* readBase(known.base?.location ?? null, workers)
        : config.base === null
          ? null
          : yield* findBase(config.base, workers);
    const named = going?.added ?? config.sources;
    const resolved = named.length > 0 ? yield* resolveSources(named) : { models: [], skipped: [] };
    const skipped: SkippedModel[] = [...(known?.skipped ?? [])];
    const firstNew = known === null ? 0 : nextId(known);
    const skip = (
      id: number,
      { name, source, layout }: Pick<ModelLocation, 'name' | 'source'> & { readonly layout?: ModelLocation['layout'] },
      reason: string,
    ): void => {
      const kind = layout === undefined ? null : layout === 'adapter' ? 'adapter' : 'checkpoint';
      skipped.push({ id, name, source, kind, reason });
    };
    if (resolved.skipped.length > 0 && config.onBadSource === 'error')
      return yield* Effect.fail(resolved.skipped[0]!.error);

    const found = resolved.models.filter((location) => location.path !== base?.location.path);
    const ordered = config.shuffle === null ? found : shuffled(found, config.shuffle);
    const candidates = [...(known?.listed ?? []), ...ordered.map((location, i) => ({ id: firstNew + i, location }))];
    const headers = yield* Effect.promise(() => workers.readHeaders(candidates.map(({ location }) => location)));
    const read: (PlannedModel & { location: ModelLocation })[] = [];
    for (const [i, header] of headers.entries()) {
      const { id, location } = candidates[i]!;
      if (!(header instanceof Error)) read.push({ id, name: location.name, header: seenAs(config, header), location });
      else if (config.onBadSource === 'error') return yield* Effect.fail(header);
      else if (id >= firstNew) skip(id, location, header.message);
    }
    const end = firstNew + ordered.length;
    for (const [i, source] of resolved.skipped.entries()) skip(end + i, source, source.error.message);
    if (read.length === 0) return yield* noModelsLeft(skipped);

    // What a run began without stays out, whatever it was that was wrong with it.
    const out = new Set(skipped.map(({ id }) => id));
    const of = yield* orPlanError(() => chooseFamily(read, config.family));
    for (const [model, reason] of of) if (!out.has(model.id)) skip(model.id, model.location, reason);
    const family = read.filter((model) => !of.has(model));
    if (base !== null) yield* orPlanError(() => checkBase(base, family[0]!));
    const chosen = yield* orPlanError(() => chooseSlots(family, base, config));
    const kept = family.filter((model) => !chosen.skipped.has(model) && !out.has(model.id));
    for (const [model, reason] of chosen.skipped)
      if (!out.has(model.id)) skip(model.id, (model as (typeof read)[number]).location, reason);
    if (kept.length === 0) return yield* noModelsLeft(skipped);
    if (chosen.slots.length === 0) return yield* noSlotsLeft(chosen.leftOut);

    const baseId = end + resolved.skipped.length;
    const all = base === null ? kept : [...kept, { ...base, id: baseId }];
    const printed = yield* Effect.promise(() => workers.fingerprints(fingerprintTasks(all, chosen.slots)));
    const models: ModelInPlan[] = [];
    const inRun = new Map(known?.used.map(({ id, fingerprint }) => [fingerprint, id]));
    const nameOf = new Map(candidates.map(({ id, location }) => [id, location.name]));
    for (const [i, model] of all.entries()) {
      const fingerprint = printed[i]!;
      if (!(fingerprint instanceof Error)) {
        const { digest, pages } = fingerprint;
        const same = inRun.get(digest);
        if (same !== undefined && model.id >= firstNew && model.id !== baseId) {
          skip(model.id, model.location, `in the run already, as ${displayName(nameOf.get(same)!)}`);
          continue;
        }
        models.push({ ...model, fingerprint: digest, pages, bytes: fileBytes(model) });
      } else if (config.onBadSource === 'error' || model.id === baseId) return yield* Effect.fail(fingerprint);
      else if (model.id >= firstNew) skip(model.id, model.location, fingerprint.message);
    }
    const baseModel = base === null ? null : models.pop()!;
    if (models.length === 0) return yield* noModelsLeft(skipped);

    const { block, rank, center, threads } = config;
    // What is on a card is not in memory, but must find room there.
    const memory =
      device.card === undefined
        ? config.memory
        : Math.min(config.memory, CARD_SHARE * Math.max(0, device.card.free - threads * CARD_THREAD_BYTES));
    const common = {
      models,
      base: baseModel,
      block,
      rank,
      center,
      threads,
      panel: device.info.panel,
      rowBuffers: device.card === undefined ? 1 : CARD_ROW_BUFFERS,
      inPlace: device.info.name === 'blas',
      memory,
      cardBinds: memory < config.memory,
      sums: 1 + config.groupBy.length,
      sides: sideModesOf(config),
      largestSide: largestSideOf(config),
      core: config.core,
    };
    const modes = sideModesOf(config);
    const sideNeeds = { ...common, modes };
    const needsOf = (engine: EngineName): MemoryNeeds => {
      const writes = config.mode.includes('models') && writesBasis(engine, config, chosen.slots);
      return { ...common, engine, basis: writes };
    };
    const { engine, groups, reason, sideGroups } = yield* Effect.try({
      try: () => {
        const first = going?.groups ?? 0;
        const done = going?.done ?? { models: 0, sides: 0 };
        const withModels = config.mode.includes('models');
        const factoredFrom = (at: number) => groupAdapters(chosen.slots.slice(at), needsOf('exact'), withModels, first);
        // A run that goes on keeps its engine, whatever the memory is now.
        const asked = known === null ? config : { ...config, engine: known.config.engine };
        const ofModels = withModels
          ? chooseEngine(asked, chosen.slots, common, (engine) =>
              isFactored(engine, config, chosen.slots, models)
                ? factoredFrom(done.models)
                : groupsToDo(chosen.slots, needsOf(engine), going),
            )
          : ({ engine: 'exact', groups: [], reason: null } as const);
        const shared = ofModels.groups.some(({ beside }) => beside === true);
        const apart = modes.length === 0 || shared ? [] : chosen.slots.slice(done.sides);
        const sideGroups =
          !withModels && isFactored('exact', config, chosen.slots, models)
            ? factoredFrom(done.sides)
            : groupSides(apart, sideNeeds, first + ofModels.groups.length);
        const cold = withStandby(ofModels.groups, needsOf(ofModels.engine));
        return { ...ofModels, groups: cold, reason: known?.engineReason ?? ofModels.reason, sideGroups };
      },
      catch: (cause) => cause,
    }).pipe(Effect.catch((cause) => (isPlanError(cause) ? Effect.fail(cause) : Effect.die(cause))));
    const sums = yield* Effect.try({
      try: () =>
        config.mode.includes('models') && engine === 'exact' ? sumsOf(chosen.slots, chosen.leftOut, config) : [],
      catch: (cause) => cause as ConfigInvalid,
    });
    const needs = needsOf(engine);
    const { basis } = needs;
    const sum = (some: readonly PlannedSlot[], of: (slot: PlannedSlot) => number): number =>
      some.reduce((all, slot) => all + of(slot), 0);
    const sideFlops = (group: SlotGroup): number =>
      sum(
        group.slots,
        (slot) => sideFlopsOf(slot, models.length, config) + sidePasses(config) * decodeFlops(slot, models),
      );
    const decoding = passesOver(engine, basis, config);
    const factored = ({ slots: some }: SlotGroup): GroupFlops => {
      const flops = sum(some, (slot) => factoredFlopsOf(slot, models, config));
      return config.mode.includes('models') ? { models: flops, sides: 0 } : { models: 0, sides: flops };
    };
    const groupFlops = [
      ...groups.map((group) =>
        group.factored !== undefined
          ? factored(group)
          : {
              models: sum(
                group.slots,
                (slot) => flopsOf(engine, slot, models.length, config) + decoding * decodeFlops(slot, models),
              ),
              sides: group.beside === true ? sideFlops(group) : 0,
            },
      ),
      ...sideGroups.map((group) =>
        group.factored !== undefined ? factored(group) : { models: 0, sides: sideFlops(group) },
      ),
    ];
    const memoryOf = (solvers: number): readonly GroupMemory[] => [
      ...groups.map((group) =>
        group.factored === undefined
          ? groupMemory({ ...needs, solvers }, group)
          : adapterMemory(group, { ...needs, solvers }),
      ),
      ...sideGroups.map((group) =>
        group.factored === undefined ? sideMemory(sideNeeds, group) : adapterMemory(group, needs),
      ),
    ];
    // With a card one thread solves them all.
    const solvers = engine === 'exact' && device.info.name !== 'cuda' ? solversAtOnce(needs, memoryOf(1)) : 1;
    const inOrder = groupsInOrder({ groups, sideGroups, engine, config, basis });
    return {
      config,
      generations: generationsOf(known, models.length),
      origin: known?.origin ?? null,
      listed: read.map(({ id, location }) => ({ id, location })),
      engine,
      engineReason: reason,
      basis,
      models,
      base: baseModel,
      skipped: skipped.sort((a, b) => a.id - b.id),
      slots: chosen.slots,
      leftOut: chosen.leftOut,
      sums,
      groups,
      sideGroups,
      groupMemory: memoryOf(solvers),
      block,
      device,
      bytesToRead: bytesOver(inOrder, models),
      bytesToWrite: config.basis === false ? 0 : basisBytes(chosen.slots, models.length, config, basis),
      solvers,
      groupSpill: [...groups.map((group) => spillBytes(needs, group)), ...sideGroups.map(() => 0)],
      flops: groupFlops.reduce((all, flops) => all + flops.models + flops.sides, 0),
      groupFlops,
    };
  });

const generationsOf = (known: Begin | null, models: number): readonly number[] => {
  const before = known?.generations ?? [];
  const added = models - before.reduce((a, b) => a + b, 0);
  return added > 0 ? [...before, added] : before;
};

/** The generation to which a block of a group belongs: an extension begins a block of its own. */
export const generationOfBlock = (
  { generations, block }: Pick<Plan, 'generations' | 'block'>,
  index: number,
): number => {
  let blocks = 0;
  const found = generations.findIndex((models) => {
    blocks += Math.ceil(models / block);
    return index < blocks;
  });
  // Blocks of a second pass are counted on.
  return found < 0 ? generations.length - 1 : found;
};

/** The groups of mode models that are left, those that have a state first. */
const groupsToDo = (
  slots: readonly PlannedSlot[],
  needs: MemoryNeeds,
  going: Continuation | null,
): readonly SlotGroup[] => {
  if (going === null) return groupSlots(slots, needs);
  const groups: SlotGroup[] = [];
  let at = going.done.models;
  // They share their reading with the modes rows and cols from the first slot to the last, or not at all.
  const mayShare = going.done.models === going.done.sides && going.saved.every(({ sides }) => sides !== null);
  const share = mayShare && groupSlots(slots.slice(at), needs).some(({ beside }) => beside === true);
  const rest = share ? needs : { ...needs, sides: [] };
  for (const { slots: count, models, blocks } of going.saved) {
    const own = groupSlots(slots.slice(at, at + count), rest, going.groups + groups.length);
    groups.push(...own.map((group) => ({ ...group, folded: { models, blocks } })));
    at += count;
  }
  return [...groups, ...groupSlots(slots.slice(at), rest, going.groups + groups.length)];
};

/** An adapter's tensors are its modules, or its factors. */
const seenAs = ({ lora }: RunConfig, header: ModelHeader): ModelHeader =>
  lora === 'factors' ? withFactorSlots(header) : header;

/** What adapters change is their base: they have an origin already, and no weights to take a base's from. */
const checkBase = (base: PlannedModel, { header }: PlannedModel): void => {
  const found =
    base.header.adapter !== undefined ? 'an adapter' : header.adapter !== undefined ? 'a base beside adapters' : null;
  if (found === null) return;
  const detail = `expected a checkpoint that sets the origin of checkpoints, found ${found}; the origin of an adapter is 0`;
  throw new ConfigInvalid({ issues: [`base: ${displayName(base.name)}: ${detail}; leave --base out`] });
};

const isPlanError = (cause: unknown): cause is PlanError =>
  cause instanceof Error && '_tag' in cause && ['ConfigInvalid', 'SourceMalformed'].includes(String(cause._tag));

const orPlanError = <A>(make: () => A): Effect.Effect<A, PlanError> =>
  Effect.try({ try: make, catch: (cause) => cause }).pipe(
    Effect.catch((cause) => (isPlanError(cause) ? Effect.fail(cause) : Effect.die(cause))),
  );

const findBase = (argument: string, workers: HeaderWorkers) =>
  Effect.gen(function* () {
    const { models, skipped } = yield* resolveSources([argument]);
    if (models.length === 0 && skipped.length > 0) return yield* Effect.fail(skipped[0]!.error);
    if (models.length !== 1) {
      const names = models.slice(0, 3).map((model) => displayName(model.name));
      return yield* new ConfigInvalid({
        issues: [
          `base: expected one model, found ${models.length} in ${displayName(argument)} (${names.join(', ')}, …)`,
        ],
      });
    }
    return yield* readBase(models[0]!, workers);
  });

/** The first number that no model of a run has; the base stands behind all others, wherever that is. */
const nextId = ({ listed, skipped }: Begin): number =>
  [...listed, ...skipped].reduce((most, { id }) => Math.max(most, id + 1), 0);

const readBase = (location: ModelLocation | null, workers: HeaderWorkers) =>
  Effect.gen(function* () {
    if (location === null) return null;
    const header = (yield* Effect.promise(() => workers.readHeaders([location])))[0]!;
    if (header instanceof Error) return yield* Effect.fail(header);
    return { id: -1, name: location.name, header, location };
  });

const fileBytes = ({ header }: PlannedModel): number => header.files.reduce((sum, { size }) => sum + size, 0);

/** Models that share their tensors share their pages, which then travel once a batch. */
const fingerprintTasks = (
  models: readonly PlannedModel[],
  slots: readonly PlannedSlot[],
): readonly FingerprintTask[] => {
  const pages = new Map<unknown, FingerprintTask['pages']>();
  return models.map((model) => {
    const { files, headerDigests, tensors } = model.header;
    let own = pages.get(tensors);
    if (own === undefined) {
      own = pagesOf(
        model.header,
        slots.map((slot) => slot.tensorIn(model).name),
      );
      pages.set(tensors, own);
    }
    return { files, headerDigests, pages: own };
  });
};

const noModelsLeft = (skipped: readonly SkippedModel[]): ConfigInvalid =>
  new ConfigInvalid({
    issues: [`sources: all ${skipped.length} models were skipped; the first: ${skipped[0]?.reason ?? 'none found'}`],
  });

const noSlotsLeft = (leftOut: readonly LeftOutSlot[]): ConfigInvalid => {
  const example = leftOut[0];
  const because = example === undefined ? '' : `; e.g. ${displayName(example.name)}: ${example.reason}`;
  return new ConfigInvalid({ issues: [`include: no slot is left of ${leftOut.length}${because}`] });
};

/** Whole models, where they have more than one slot, and a sum a glob. */
const sumsOf = (
  slots: readonly PlannedSlot[],
  leftOut: readonly LeftOutSlot[],
  { groupBy }: RunConfig,
): readonly SlotSum[] => {
  const sums = groupBy.map((name) => ({ name, slots: slots.filter((slot) => globMatcher(name)(slot.name)) }));
  const empty = sums.filter((sum) => sum.slots.length === 0);
  if (empty.length > 0) {
    const example = displayName(slots[0]!.name);
    throw new ConfigInvalid({
      issues: empty.map(
        ({ name }) =>
          `group-by: expected a glob of slot names, found ${displayName(name)}, which none matches (e.g. ${example})`,
      ),
    });
  }
  const whole = slots.length > 1 && !groupBy.includes('*') ? [{ name: '*', slots }] : [];
  const first = slots.length + leftOut.length;
  return [...whole, ...sums].map((sum, i) => ({ ...sum, id: first + i }));
};
