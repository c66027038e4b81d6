// From the headers of all models to the slots they share: which tensors are analysed, which are left out and why, and
// which models have to go. Headers alone are looked at. Cost: linear in models x tensors.
import { ConfigInvalid } from '../configs/errors.ts';
import type { RunConfig } from '../configs/run-config.ts';
import { displayName } from '../sources/display-name.ts';
import { isReadableDtype } from '../sources/dtype.ts';
import { SourceMalformed } from '../sources/errors.ts';
import { globMatcher } from '../sources/glob.ts';
import type { TensorEntry } from '../sources/model.ts';
import type { PlannedModel, PlannedSlot } from '../sources/reading-plan.ts';
import { compareNatural, type MatrixShape, matrixShape } from './slot-shape.ts';

export interface LeftOutSlot {
  readonly name: string;
  readonly shape: readonly number[];
  readonly dtypes: readonly string[];
  /** How many models have it. */
  readonly models: number;
  readonly reason: string;
}

export interface ChosenSlot extends PlannedSlot {
  readonly shape: readonly number[];
  readonly dtypes: readonly string[];
}

export interface ChosenSlots {
  readonly slots: readonly ChosenSlot[];
  readonly leftOut: readonly LeftOutSlot[];
  /** Models that `--on-mismatch skip-model` leaves out. */
  readonly skipped: ReadonlyMap<PlannedModel, string>;
}

/** All that the models say of one slot name. */
interface Candidate {
  readonly name: string;
  readonly tensorNames: Set<string>;
  readonly dtypes: Set<string>;
  /** Models by the shape they give it; what cannot be read counts as a shape of its own. */
  readonly variants: Map<string, { readonly tensor: TensorEntry; readonly models: PlannedModel[] }>;
}

type Rules = Pick<RunConfig, 'include' | 'exclude' | 'rename' | 'onMismatch'>;

/** Wrappers that frameworks put in front of all names. */
const KNOWN_PREFIXES = ['model.', 'module.', '_orig_mod.'];

/**
 * @throws ConfigInvalid when a rename folds two tensors of a model into one slot; SourceMalformed when the models do not
 *   agree and the rules say stop, or when fewer than half of the slots would survive
 */
export const chooseSlots = (models: readonly PlannedModel[], base: PlannedModel | null, rules: Rules): ChosenSlots => {
  const candidates = collect(models, rules);
  const skipped = rules.onMismatch === 'skip-model' ? oddModels(candidates, models) : new Map<PlannedModel, string>();
  const kept = new Set(models.filter((model) => !skipped.has(model)));
  const chosen: Omit<ChosenSlot, 'id'>[] = [];
  const leftOut: LeftOutSlot[] = [];
  /** Slots that the models share, and the base has not. */
  const unlikeBase: string[] = [];
  let eligible = 0;
  for (const candidate of [...candidates.values()].sort((a, b) => compareNatural(a.name, b.name))) {
    const { tensor } = [...candidate.variants.values()][0]!;
    const { shape } = tensor;
    const present = [...candidate.variants.values()].reduce((sum, variant) => sum + variant.models.length, 0);
    const fixed = reasonFor(candidate, rules);
    if (fixed === null) eligible++;
    const apart = fixed ?? disagreement(candidate, kept);
    const ofBase = apart === null ? baseProblem(candidate, base) : null;
    const reason = apart ?? ofBase;
    if (ofBase !== null)
      unlikeBase.push(`slot ${displayName(candidate.name)}: ${ofBase}, ${variantOf(tensor)} in the models`);
    if (reason !== null) {
      leftOut.push({ name: candidate.name, shape, dtypes: [...candidate.dtypes], models: present, reason });
      if (fixed === null && rules.onMismatch === 'error') throw mismatch(candidate, kept, reason);
      continue;
    }
    const { rows, cols } = shapeOf(tensor)!;
    const names = [...candidate.tensorNames];
    chosen.push({
      name: candidate.name,
      rows,
      cols,
      features: rows * cols,
      shape,
      dtypes: [...candidate.dtypes],
      tensorIn: (model) => tensorOf(model, names),
      ...(tensor.lora === undefined ? {} : { isDelta: true }),
    });
  }
  const isTooFew = (count: number): boolean => count * 2 < eligible || (eligible > 0 && count === 0);
  if (isTooFew(chosen.length) && !isTooFew(chosen.length + unlikeBase.length)) {
    const issue =
      `base: expected the model that these began at, found one that has ${chosen.length} of their ${eligible} slots ` +
      `(${unlikeBase[0]}); give that model, or leave --base out`;
    throw new ConfigInvalid({ issues: [issue] });
  }
  if (isTooFew(chosen.length)) throw tooFew(candidates, models, chosen.length, eligible);
  return { slots: chosen.map((slot, id) => ({ id, ...slot })), leftOut, skipped };
};

const tensorOf = (model: PlannedModel, names: readonly string[]): TensorEntry => {
  for (const name of names) {
    const tensor = model.header.tensors.get(name);
    if (tensor !== undefined) return tensor;
  }
  throw new Error(`${model.name} has none of ${names.join(', ')}`);
};

/** ΔW of a convolution is out x (in · kernel), however many dims that has: its factors are what is low-rank. */
const shapeOf = ({ shape, lora }: TensorEntry): MatrixShape | null => lora ?? matrixShape(shape);

const renamed = (name: string, rules: Rules): string => {
  for (const { from, to } of rules.rename) if (name.startsWith(from)) return to + name.slice(from.length);
  return name;
};

const variantOf = ({ dtype, shape }: TensorEntry): string =>
  isReadableDtype(dtype) ? `shape [${shape.join(', ')}]` : `dtype ${dtype}`;

const collect = (models: readonly PlannedModel[], rules: Rules): Map<string, Candidate> => {
  const candidates = new Map<string, Candidate>();
  for (const model of models) {
    const seen = new Map<string, string>();
    for (const tensor of model.header.tensors.values()) {
      const name = renamed(tensor.name, rules);
      const other = seen.get(name);
      if (other !== undefined) {
        const pair = `${displayName(other)} and ${displayName(tensor.name)}`;
        throw new ConfigInvalid({ issues: [`rename: ${pair} of ${model.name} both become ${displayName(name)}`] });
      }
      seen.set(name, tensor.name);
      let candidate = candidates.get(name);
      if (candidate === undefined) {
        candidate = { name, tensorNames: new Set(), dtypes: new Set(), variants: new Map() };
        candidates.set(name, candidate);
      }
      candidate.tensorNames.add(tensor.name);
      candidate.dtypes.add(tensor.dtype);
      const key = variantOf(tensor);
      const variant = candidate.variants.get(key);
      if (variant === undefined) candidate.variants.set(key, { tensor, models: [model] });
      else variant.models.push(model);
    }
  }
  return candidates;
};

/** Why a slot is out whatever the models say: it is not asked for, or no matrix of weights. */
const reasonFor = (candidate: Candidate, rules: Rules): string | null => {
  const matches = (glob: string): boolean => globMatcher(glob)(candidate.name);
  if (rules.include.length > 0 && !rules.include.some(matches)) return 'not included';
  if (rules.exclude.some(matches)) return 'excluded';
  const tensors = [...candidate.variants.values()].map(({ tensor }) => tensor);
  const kept = tensors.find(({ leftOut }) => leftOut !== undefined);
  if (kept !== undefined) return kept.leftOut!;
  if (tensors.every(({ dtype }) => !isReadableDtype(dtype))) {
    return `dtype ${tensors[0]!.dtype}: not floating weights (quantised ones need scales that live elsewhere)`;
  }
  if (tensors.every((tensor) => shapeOf(tensor) === null)) return 'fewer than two dims';
  if (tensors.every(({ shape }) => shape.includes(0))) return 'no entries';
  return null;
};

/** Why the models do not share a slot; null when they do. */
const disagreement = (candidate: Candidate, kept: ReadonlySet<PlannedModel>): string | null => {
  const variants = [...candidate.variants]
    .map(([key, { models }]) => ({ key, models: models.filter((model) => kept.has(model)) }))
    .filter(({ models }) => models.length > 0)
    .sort((a, b) => b.models.length - a.models.length);
  const present = variants.reduce((sum, { models }) => sum + models.length, 0);
  if (variants.length > 1) {
    return variants.map(({ key, models }) => `${key} in ${models.length} (${firstName(models)})`).join(', ');
  }
  if (present === kept.size) return null;
  const has = new Set(variants.flatMap(({ models }) => models));
  const without = [...kept].filter((model) => !has.has(model));
  return `missing in ${without.length} of ${kept.size} models (${firstName(without)})`;
};

const firstName = (models: readonly PlannedModel[]): string =>
  `${displayName(models[0]!.name)}${models.length > 1 ? ', …' : ''}`;

const baseProblem = (candidate: Candidate, base: PlannedModel | null): string | null => {
  if (base === null) return null;
  const names = [...candidate.tensorNames].filter((name) => base.header.tensors.has(name));
  if (names.length === 0) return `missing in the base (${displayName(base.name)})`;
  const found = variantOf(base.header.tensors.get(names[0]!)!);
  return candidate.variants.has(found) ? null : `${found} in the base (${displayName(base.name)})`;
};

/** Models that lack a slot most others have, or give it another shape than most. */
const oddModels = (
  candidates: ReadonlyMap<string, Candidate>,
  models: readonly PlannedModel[],
): Map<PlannedModel, string> => {
  const odd = new Map<PlannedModel, string>();
  for (const candidate of candidates.values()) {
    const [key, usual] = [...candidate.variants].sort((a, b) => b[1].models.length - a[1].models.length)[0]!;
    if (usual.models.length * 2 <= models.length) continue;
    // A model has a slot once, so each is in one variant at most.
    const variantOfModel = new Map(
      [...candidate.variants].flatMap(([name, { models }]) => models.map((m) => [m, name])),
    );
    for (const model of models) {
      const own = variantOfModel.get(model);
      if (own === key || odd.has(model)) continue;
      const name = displayName(candidate.name);
      odd.set(model, own === undefined ? `slot ${name} is missing` : `slot ${name} has ${own}, most have ${key}`);
    }
  }
  return odd;
};

const mismatch = (candidate: Candidate, models: ReadonlySet<PlannedModel>, reason: string): SourceMalformed => {
  const usual = [...candidate.variants.values()].sort((a, b) => b.models.length - a.models.length)[0]!;
  const fits = new Set(usual.models);
  const odd = [...models].find((model) => !fits.has(model)) ?? usual.models[0]!;
  return new SourceMalformed({
    path: odd.header.files[0]!.path,
    tensor: displayName(candidate.name),
    rule: 'mismatch',
    detail: `${reason}; expected all models to agree (--on-mismatch skip-slot or skip-model goes on without)`,
  });
};

const tooFew = (
  candidates: ReadonlyMap<string, Candidate>,
  models: readonly PlannedModel[],
  common: number,
  eligible: number,
): SourceMalformed => {
  const families = new Map<string, PlannedModel[]>();
  for (const model of models) {
    const signature = [...model.header.tensors.values()]
      .filter((tensor) => shapeOf(tensor) !== null)
      .map((tensor) => `${tensor.name} ${variantOf(tensor)}`)
      .sort()
      .join('\n');
    const family = families.get(signature);
    if (family === undefined) families.set(signature, [model]);
    else family.push(model);
  }
  const [usual, ...others] = [...families.values()].sort((a, b) => b.length - a.length);
  const odd = others.flat();
  const list = odd.slice(0, 3).map((model) => displayName(model.name));
  const names = `${list.join(', ')}${odd.length > 3 ? ` and ${odd.length - 3} more` : ''}`;
  return new SourceMalformed({
    path: (odd[0] ?? models[0]!).header.files[0]!.path,
    rule: 'few-common-slots',
    detail:
      `only ${common} of ${eligible} slots are common to all ${models.length} models: ${usual!.length} agree ` +
      `(${firstName(usual!)}), ${odd.length} differ (${names})${prefixHint(candidates, models)}${rankHint(models)}; ` +
      'give models of one architecture, or choose slots with --include',
  });
};

/** Factors of adapters, as slots, have the rank in their shapes. */
const rankHint = (models: readonly PlannedModel[]): string =>
  models.every(({ header }) => header.adapter !== undefined && [...header.tensors.values()].every(({ lora }) => !lora))
    ? '; with --lora factors adapters of several ranks have nothing in common: --lora delta, or --on-mismatch skip-model, which keeps those of the rank that most have'
    : '';

/** Says so when a wrapper's prefix alone keeps the models apart. */
const prefixHint = (candidates: ReadonlyMap<string, Candidate>, models: readonly PlannedModel[]): string => {
  for (const prefix of KNOWN_PREFIXES) {
    if (![...candidates.keys()].some((name) => name.startsWith(prefix))) continue;
    const counts = new Map<string, number>();
    for (const { name, variants } of candidates.values()) {
      const bare = name.startsWith(prefix) ? name.slice(prefix.length) : name;
      const present = [...variants.values()].reduce((sum, variant) => sum + variant.models.length, 0);
      counts.set(bare, (counts.get(bare) ?? 0) + present);
    }
    const shared = [...counts.values()].filter((count) => count === models.length).length;
    if (shared * 2 >= counts.size) return `; without the prefix ${prefix} they would agree: --rename ${prefix}=`;
  }
  return '';
};
