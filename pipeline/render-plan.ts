// The plan as text for people, and as JSON for machines.
import type { FoundCard } from '../operators/devices/device-spec.ts';
import { isFollowed, LARGEST_EXACT_SIDE, sideOf } from '../operators/mode-scatter.ts';
import { formatBytes, formatCount, formatDuration, formatPlural } from '../sinks/human-format.ts';
import { displayName } from '../sources/display-name.ts';
import { isFetched } from '../sources/fetching.ts';
import { weightBytes } from '../sources/reading-plan.ts';
import { adapterFacts } from './adapter-facts.ts';
import { adapterWarnings } from './adapter-warnings.ts';
import { followerOf, largestSideOf, sideModesOf } from './choose-engine.ts';
import type { TimeEstimate } from './estimate-time.ts';
import type { Plan } from './plan.ts';
import { bytesToSpill, groupsInOrder, heapMemory, peakMemory, stateBytes } from './plan-figures.ts';

const NAMES_SHOWN = 8;

/**
 * One screen of text: what will be read, what is left out and why, how it fits the memory.
 * @param estimate how long it will take; null where nobody asked
 */
export const renderPlan = (plan: Plan, estimate: TimeEstimate | null = null): string => {
  const { config, device, models } = plan;
  const groups = groupsInOrder(plan);
  const blocks = Math.ceil(models.length / config.block);
  const features = plan.slots.reduce((sum, slot) => sum + slot.features, 0);
  const memory = peakMemory(plan);
  const lines = [
    `models     ${formatPlural(models.length, 'model')} in ${formatPlural(blocks, 'block')} of ${config.block}`,
    ...(plan.base === null ? [] : [`base       ${displayName(plan.base.name)}`]),
    ...list('adapters', adapterLines(plan)),
    ...list(
      'skipped',
      plan.skipped.map(({ name, reason }) => `${displayName(name)}: ${reason}`),
    ),
    `slots      ${formatPlural(plan.slots.length, 'slot')}, ${formatCount(features)} weights a model`,
    ...list('left out', reasons(plan)),
    ...list('engine', enginesOf(plan)),
    `device     ${describeDevice(plan)}, ${formatPlural(config.threads, 'thread')}`,
    `memory     ${formatBytes(memory)} of ${formatBytes(config.memory)}, ${formatPlural(groups.length, 'group')} of slots; heaps grow by about ${formatBytes(heapMemory(plan))} beside`,
    `to read    ${formatBytes(plan.bytesToRead)}, ${readingOf(plan)}`,
    `to write   ${formatBytes(plan.bytesToWrite)}${describeFiles(plan)}${describeState(plan)}`,
    ...(bytesToSpill(plan) === 0 ? [] : [`scratch    ${describeSpill(plan)}`]),
    `flops      ${(plan.flops / 1e9).toPrecision(3)} GFLOP`,
    ...(estimate === null ? [] : list('time', timeLines(estimate))),
    ...list('warning', [...device.warnings, ...adapterWarnings(plan)]),
  ];
  return `${lines.join('\n')}\n`;
};

const RANKS_SHOWN = 6;

const adapterLines = (plan: Plan): readonly string[] => {
  const facts = adapterFacts(plan);
  if (facts === null) return [];
  const { lora, baseModels, ranks, factorBytes, deltaBytes } = facts;
  const named = baseModels.slice(0, 3).map((base) => (base === null ? 'a base that is not named' : displayName(base)));
  const bases = `of ${named.join(', ')}${baseModels.length > 3 ? `, and ${baseModels.length - 3} more` : ''}`;
  if (lora === 'factors') return [`${bases}; their factors A and B as they are`];
  const shown = ranks.slice(0, RANKS_SHOWN).map(([rank, modules]) => `${rank} in ${formatPlural(modules, 'module')}`);
  const more = ranks.length > RANKS_SHOWN ? `, and ${ranks.length - RANKS_SHOWN} more` : '';
  return [
    `${bases}; rank ${shown.join(', ')}${more}`,
    `${formatBytes(factorBytes)} of factors stand for ${formatBytes(deltaBytes)} of ΔW = scale · B·A, which is never held`,
    `the basis and mean of ΔW ${describeBasis(plan, formatBytes(facts.basisBytes))}`,
  ];
};

const describeBasis = ({ basis, config }: Plan, bytes: string): string =>
  basis
    ? `take ${bytes} (--no-basis leaves them out)`
    : `would take ${bytes}${config.basis === false ? '' : ' (--basis dense writes them)'}`;

/** What the bytes to write are. */
const describeFiles = ({ basis, config }: Plan): string => {
  if (config.basis === false) return ' (--no-basis), tables alone';
  const implicit = config.mode.includes('models') && !basis;
  return implicit
    ? ' of basis and mean; directions of mode models stay coefficients over adapters'
    : ' of basis and mean';
};

const stateOf = (plan: Plan) => {
  const { kept, most } = stateBytes(plan);
  return { kept, most };
};

const describeState = (plan: Plan): string => {
  const { kept } = stateBytes(plan);
  return kept === 0 ? '' : `, and ${formatBytes(kept)} of state that extend goes on from (--drop-state)`;
};

/** Slots too large for the memory, and the disk they take instead. */
const describeSpill = (plan: Plan): string => {
  const { groups, config } = plan;
  const names = groups.flatMap(({ slots, tilesAtOnce }) =>
    tilesAtOnce === undefined ? [] : [displayName(slots[0]!.name)],
  );
  const shown = names.length > 3 ? `${names.slice(0, 3).join(', ')}, …` : names.join(', ');
  const where = config.scratch === null ? 'in the run folder (--scratch)' : `in ${displayName(config.scratch)}`;
  return `${formatBytes(bytesToSpill(plan))} ${where}, for ${formatPlural(names.length, 'slot')} too large for the memory: ${shown}`;
};

/** Slots that are not exact there. */
const describeFollowed = ({ config, slots }: Plan): string => {
  const limit = { largestSide: largestSideOf(config) };
  const followed = slots.filter((slot) => sideModesOf(config).some((mode) => isFollowed(sideOf(mode, slot), limit)));
  if (followed.length === 0) return '';
  const names = followed.slice(0, 3).map(({ name }) => displayName(name));
  const more = followed.length > 3 ? ', …' : '';
  return ` (${followerOf(config)} where a side is beyond ${formatCount(LARGEST_EXACT_SIDE)}: ${names.join(', ')}${more}; --engine exact)`;
};

/** A line for mode models, one for the others. */
const enginesOf = (plan: Plan): readonly string[] => {
  const { config, engine, engineReason } = plan;
  const sides = sideModesOf(config);
  const treated = `rank ${config.rank}, ${config.center ? 'centred' : 'not centred'}`;
  const reason = engineReason === null ? '' : ` (auto: ${engineReason})`;
  return [
    ...(config.mode.includes('models') ? [`${engine}, mode models, ${treated}${reason}`] : []),
    ...(sides.length === 0
      ? []
      : [
          `exact, ${sides.length === 1 ? 'mode' : 'modes'} ${sides.join(' and ')}, ${treated}${describeFollowed(plan)}`,
        ]),
  ];
};

/** Passes over the data: those of mode models, which the others may share, theirs, and one before where all is verified. */
const passesOf = (plan: Plan): number => {
  const [models, sides] = [plan.groups[0], plan.sideGroups[0]].map(
    (first) => groupsInOrder(plan).find(({ group }) => group === first)?.passes ?? 0,
  );
  return models! + sides! + (plan.config.verify ? 1 : 0);
};

const TIMES = ['never', 'once', 'twice', 'three times', 'four times'];

const readingOf = (plan: Plan): string => {
  const { config, engine, groups, sideGroups } = plan;
  const sides = sideModesOf(config).join(' and ');
  const models = groups.length > 0;
  const apart = models && sideGroups.length > 0;
  const reasons = [
    apart ? 'for the spectrum of models' : 'for the spectrum',
    ...(models && engine === 'exact' && plan.basis ? ['for the basis (--no-basis)'] : []),
    ...(models && engine === 'randomized' && config.passes === 2 ? ['to sharpen it (--passes 2)'] : []),
    ...(apart ? [`for that of ${sides} (more --memory lets them share)`] : []),
    ...(sides !== '' && config.energies ? [`for the energies of ${sides} (--no-energies)`] : []),
    ...(config.core ? ['for the core tensor (--core)'] : []),
  ];
  const why = reasons.length > 1 ? `, ${reasons.join(', ').replace(/, ([^,]*)$/, ' and $1')}` : '';
  const often = `each byte ${TIMES[passesOf(plan) - (config.verify ? 1 : 0)]}${why}`;
  return config.verify ? `${often}, and all files once before (--verify)` : often;
};

const timeLines = (estimate: TimeEstimate): string[] => {
  const { seconds, readSeconds, readRate, computeSeconds, flopRate, verifySeconds, assumes } = estimate;
  const verifying = verifySeconds > 0 ? `, and ${formatDuration(verifySeconds)} to verify` : '';
  return [
    `about ${formatDuration(seconds)}${verifying}: reading ${formatDuration(readSeconds)} at ${formatBytes(readRate)}/s, ` +
      `products ${formatDuration(computeSeconds)} at ${(flopRate / 1e9).toPrecision(2)} GFLOP/s a thread`,
    ...assumes.map((assumption, i) => (i === 0 ? `provided that ${assumption},` : `and that ${assumption}`)),
  ];
};

const list = (title: string, entries: readonly string[]): string[] => {
  const shown = entries.slice(0, NAMES_SHOWN).map((entry, i) => `${(i === 0 ? title : '').padEnd(10)} ${entry}`);
  return entries.length > NAMES_SHOWN ? [...shown, `${' '.repeat(11)}and ${entries.length - NAMES_SHOWN} more`] : shown;
};

/** Left-out tensors by reason, the most frequent first. */
const reasons = (plan: Plan): string[] => {
  const byReason = new Map<string, string[]>();
  for (const { name, reason } of plan.leftOut) {
    const names = byReason.get(reason);
    if (names === undefined) byReason.set(reason, [name]);
    else names.push(name);
  }
  return [...byReason]
    .sort((a, b) => b[1].length - a[1].length)
    .map(([reason, names]) =>
      names.length === 1
        ? `${displayName(names[0]!)}: ${reason}`
        : `${formatPlural(names.length, 'tensor')}: ${reason}`,
    );
};

export const describeDevice = ({ device }: Plan): string => {
  const { info, spec } = device;
  const where = spec.name === 'blas' ? `, ${spec.path}` : '';
  const card = device.card === undefined ? '' : `, ${describeCard(device.card, info.precision)}`;
  return `${info.name} (${info.library} ${info.version}, kernel ${info.kernel}${where}${card})`;
};

const describeCard = ({ runtime, driver, free, total, hasSolver }: FoundCard, precision: string): string =>
  `${precision}, CUDA ${runtime}, driver for CUDA ${driver}${hasSolver ? '' : ', no cuSOLVER'}, ${formatBytes(free)} of ${formatBytes(total)} free`;

/** All of the plan as plain data, see docs/plan.md. */
export const planToJson = (plan: Plan, estimate: TimeEstimate | null = null): unknown => ({
  config: plan.config,
  engine: { name: plan.engine, reason: plan.engineReason },
  models: plan.models.map(({ id, name, location, fingerprint, bytes }) => ({
    model_id: id,
    name,
    source: location.source,
    path: location.path,
    fingerprint,
    bytes,
  })),
  base: plan.base === null ? null : { name: plan.base.name, path: plan.base.location.path },
  skipped: plan.skipped,
  slots: plan.slots.map(({ id, name, rows, cols, shape, dtypes }) => ({
    slot_id: id,
    name,
    rows,
    cols,
    shape,
    dtypes,
  })),
  adapters: adaptersToJson(plan),
  left_out: plan.leftOut,
  sums: plan.sums.map(({ id, name, slots }) => ({ slot_id: id, name, slots: slots.map((slot) => slot.id) })),
  groups: groupsInOrder(plan).map(({ group, modes, passes }, i) => ({
    group: group.index,
    modes,
    slots: group.slots.map(({ id }) => id),
    tiles_at_once: group.tilesAtOnce ?? null,
    in_files: group.inFiles === true,
    past_cache: isFetched(group, plan),
    factored: group.factored === undefined ? null : { holds: group.factored.holds },
    memory: plan.groupMemory[i],
    bytes_to_read: weightBytes(group.slots, plan.models) * passes,
    flops: plan.groupFlops[i]!.models + plan.groupFlops[i]!.sides,
  })),
  device: {
    ...plan.device.info,
    ...('path' in plan.device.spec ? { path: plan.device.spec.path } : {}),
    ...(plan.device.card === undefined ? {} : { card: plan.device.card }),
  },
  peak_memory: peakMemory(plan),
  heap_memory: heapMemory(plan),
  passes: passesOf(plan),
  bytes_to_read: plan.bytesToRead,
  bytes_to_write: plan.bytesToWrite,
  bytes_to_spill: bytesToSpill(plan),
  bytes_of_state: stateOf(plan),
  flops: plan.flops,
  estimate: estimate === null ? null : estimateToJson(estimate),
  warnings: [...plan.device.warnings, ...adapterWarnings(plan)],
});

const adaptersToJson = (plan: Plan): unknown => {
  const facts = adapterFacts(plan);
  if (facts === null) return null;
  return {
    lora: facts.lora,
    base_models: facts.baseModels,
    ranks: facts.ranks.map(([rank, modules]) => ({ rank, modules })),
    factor_bytes: facts.factorBytes,
    delta_bytes: facts.deltaBytes,
    basis_bytes: facts.basisBytes,
  };
};

const estimateToJson = (estimate: TimeEstimate): unknown => ({
  seconds: estimate.seconds,
  fit_s: estimate.fitSeconds,
  read_s: estimate.readSeconds,
  compute_s: estimate.computeSeconds,
  algebra_s: estimate.algebraSeconds,
  memory_s: estimate.memorySeconds,
  write_s: estimate.writeSeconds,
  verify_s: estimate.verifySeconds,
  read_rate: estimate.readRate,
  flop_rate: estimate.flopRate,
  probe: { bytes: estimate.probedBytes, seconds: estimate.probeSeconds },
  assumes: estimate.assumes,
});
