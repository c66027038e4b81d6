// adapter_config.json, as PEFT's LoraConfig writes it: what decides ΔW is read strictly, all else is passed over. Nothing that
// it names (a base model, a path) is ever opened or fetched. Pure; linear in the file.
// Source: PEFT, tuners/lora/config.py and layer.py: scaling = α / r, or α / √r with use_rslora.
import { displayName } from './display-name.ts';
import { SourceMalformed } from './errors.ts';
import { type ModulePattern, modulePattern, newPatternBudget } from './module-pattern.ts';
import { type Fail, JsonScanner } from './strict-json.ts';

export const adapterConfigName = 'adapter_config.json';
/** A thousand times what PEFT writes. */
export const maxAdapterConfigBytes = 4_000_000;
const maxRank = 65_536;
const maxAlpha = 1e9;
const maxPatterns = 10_000;
const maxBaseName = 4096;

/** How a module's ΔW follows from its factors. */
export interface ModuleScaling {
  readonly rank: number;
  /** α / r, or α / √r. */
  readonly scale: number;
}

export interface AdapterConfig {
  readonly baseModel: string | null;
  /** Layers store their weights as inputs x outputs (GPT-2's Conv1D). */
  readonly fanInFanOut: boolean;
  /** Layers of which other parameters than `weight` are adapted: their factors are those of several matrices. */
  readonly hasTargetParameters: boolean;
  /** Equal keys, equal treatment of equal tensors. */
  readonly key: string;
  /** Asks the patterns; @throws SourceMalformed where they take too long */
  readonly scalingOf: (modulePath: string) => ModuleScaling;
}

/** What PEFT leaves at 0 before training, so that B A is the whole change of the weight. */
const plainInits: ReadonlySet<string> = new Set(['gaussian', 'orthogonal', 'eva']);

interface Pattern {
  readonly key: string;
  readonly matches: ModulePattern;
  readonly value: number;
}

/**
 * Parses and checks a config.
 * @throws SourceMalformed also where ΔW is not scale · B A: DoRA, and inits that change the base
 */
export function parseAdapterConfig(bytes: Uint8Array, path: string): AdapterConfig {
  const fail: Fail = (rule, detail) => {
    throw new SourceMalformed({ path, rule, detail });
  };
  const json = new JsonScanner(bytes, fail);
  if (json.peek() !== 0x7b) json.unexpected('{ to open the config of an adapter', 'not-an-object');
  let [rank, alpha] = [8, 8];
  let [baseModel, fanInFanOut, rootOfRank, hasTargetParameters] = [null as string | null, false, false, false];
  let rankPatterns: readonly Pattern[] = [];
  let alphaPatterns: readonly Pattern[] = [];
  const flags: Readonly<Record<string, (value: boolean) => void>> = {
    fan_in_fan_out: (value) => {
      fanInFanOut = value;
    },
    use_rslora: (value) => {
      rootOfRank = value;
    },
    use_dora: (value) => {
      if (value)
        fail('dora', `found use_dora, which rescales the whole weight by a learned magnitude; ${notTheChange}`);
    },
    use_qalora: (value) => {
      if (value) fail('qalora', `found use_qalora, which pools the inputs of a layer; ${notTheChange}`);
    },
  };
  const seen = new Set<string>();
  json.object('the config', (key) => {
    if (seen.has(key)) fail('duplicate-key', `found ${displayName(key)} twice, expected once`);
    seen.add(key);
    if (key === 'r') rank = readRank(json, fail, 'r');
    else if (key === 'lora_alpha') alpha = readAlpha(json, fail, 'lora_alpha');
    else if (key === 'rank_pattern') rankPatterns = readPatterns(json, fail, key, readRank);
    else if (key === 'alpha_pattern') alphaPatterns = readPatterns(json, fail, key, readAlpha);
    else if (Object.hasOwn(flags, key)) flags[key]!(json.acceptNull() ? false : json.boolean(key));
    else if (key === 'base_model_name_or_path') baseModel = json.acceptNull() ? null : readBase(json, fail);
    else if (key === 'peft_type') readType(json, fail);
    else if (key === 'init_lora_weights') readInit(json, fail);
    else if (key === 'target_parameters') hasTargetParameters = readsAny(json);
    else json.skip(`the value of ${displayName(key)}`);
  });
  json.end();
  const budget = newPatternBudget();
  const firstOf = (patterns: readonly Pattern[], module: string, otherwise: number): number => {
    try {
      return patterns.find(({ matches }) => matches(module, budget))?.value ?? otherwise;
    } catch (cause) {
      if (!(cause instanceof RangeError)) throw cause;
      return fail('pattern', `found rank_pattern or alpha_pattern, expected patterns that are quick: ${cause.message}`);
    }
  };
  const valuesOf = (patterns: readonly Pattern[]) => patterns.map(({ key, value }) => [key, value]);
  return {
    baseModel,
    fanInFanOut,
    hasTargetParameters,
    key: JSON.stringify([rank, alpha, rootOfRank, fanInFanOut, valuesOf(rankPatterns), valuesOf(alphaPatterns)]),
    scalingOf: (module) => {
      const r = firstOf(rankPatterns, module, rank);
      return { rank: r, scale: firstOf(alphaPatterns, module, alpha) / (rootOfRank ? Math.sqrt(r) : r) };
    },
  };
}

const notTheChange =
  'so B·A is not the change of the weight: merge the adapter into its base and give the merged model';

function readRank(json: JsonScanner, fail: Fail, what: string): number {
  const rank = json.natural(what);
  if (rank < 1 || rank > maxRank) fail('rank', `found ${what} ${rank}, expected 1 to ${maxRank}`);
  return rank;
}

function readAlpha(json: JsonScanner, fail: Fail, what: string): number {
  const alpha = json.number(what);
  if (!(Math.abs(alpha) <= maxAlpha)) fail('alpha', `found ${what} ${alpha}, expected a number up to ${maxAlpha}`);
  return alpha;
}

function readPatterns(
  json: JsonScanner,
  fail: Fail,
  what: string,
  read: (json: JsonScanner, fail: Fail, what: string) => number,
): readonly Pattern[] {
  if (json.acceptNull()) return [];
  const patterns = new Map<string, Pattern>();
  json.object(what, (key) => {
    if (patterns.has(key)) fail('duplicate-key', `found ${displayName(key)} twice in ${what}, expected once`);
    if (patterns.size === maxPatterns) fail('pattern', `found more than ${maxPatterns} keys in ${what}`);
    const value = read(json, fail, `${what} of ${displayName(key)}`);
    patterns.set(key, { key, value, matches: patternOf(key, what, fail) });
  });
  return [...patterns.values()];
}

function patternOf(key: string, what: string, fail: Fail): ModulePattern {
  try {
    return modulePattern(key);
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause;
    return fail(
      'pattern',
      `found the key ${displayName(key)} in ${what}, expected a pattern that is known: ${cause.message}`,
    );
  }
}

function readBase(json: JsonScanner, fail: Fail): string {
  const name = json.string('base_model_name_or_path');
  if (name.length > maxBaseName)
    fail('base-model', `found base_model_name_or_path of ${name.length} characters, expected at most ${maxBaseName}`);
  return name;
}

function readType(json: JsonScanner, fail: Fail): void {
  if (json.acceptNull()) return;
  const type = json.string('peft_type');
  if (type.toUpperCase() !== 'LORA') {
    fail(
      'peft-type',
      `found an adapter of type ${displayName(type)}, expected LORA; merge it into its base and give the merged model`,
    );
  }
}

function readInit(json: JsonScanner, fail: Fail): void {
  if (json.acceptNull()) return;
  if (json.peek() !== 0x22) {
    json.boolean('init_lora_weights');
    return;
  }
  const init = json.string('init_lora_weights');
  if (plainInits.has(init.toLowerCase())) return;
  fail(
    'init',
    `found init_lora_weights ${displayName(init)}, expected true, false, ${[...plainInits].join(', ')}: others begin with ` +
      'factors that are not 0 and change the base to make up for it (PiSSA, OLoRA, LoftQ, CorDA), so B·A is not the change ' +
      'of the weight; convert the adapter with path_initial_model_for_weight_conversion of save_pretrained, or merge it',
  );
}

/** Whether a list or object has anything in it. */
function readsAny(json: JsonScanner): boolean {
  if (json.acceptNull()) return false;
  const start = json.at;
  json.skip('target_parameters');
  return json.at - start > 2;
}
