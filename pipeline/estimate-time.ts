// How long a run will take, from a short look at the machine (about 200 ms): a few MB of planned weights are read by the code
// that a run reads with, and a few panels are visited through the device at the run's shapes. The rest is arithmetic.
// A guess at the rate this machine showed just now: files that were read lately come from memory, and other work slows both.
import { availableParallelism } from 'node:os';
import type { ModeName } from '../configs/schema.ts';
import type { Device, DeviceMatrix } from '../operators/devices/device.ts';
import { openDevice } from '../operators/devices/device-spec.ts';
import { prefixesOf } from '../operators/exact-spectrum.ts';
import { followedUpdates, SAMPLES_AT_ONCE } from '../operators/followed-scatter.ts';
import { BLOCK_SIDE, blocksOf } from '../operators/linalg/packed-blocks.ts';
import { KRYLOV_BLOCK } from '../operators/linalg/top-eigenpairs.ts';
import { isFollowed, sideOf } from '../operators/mode-scatter.ts';
import { LANES, WHOLE_SPECTRUM_SIDE } from '../operators/scatter-spectrum.ts';
import { mayAdd } from '../operators/stored-rows.ts';
import { emptySubspace, maxStateRows, type SubspaceState } from '../operators/subspace-state.ts';
import { CONSTANT_ROWS, rowsBeforeBlock, updateSubspace } from '../operators/update-subspace.ts';
import { bytesPerElement } from '../sources/dtype.ts';
import type { Dtype } from '../sources/model.ts';
import {
  type PlannedModel,
  type PlannedSlot,
  type SlotGroup,
  storedTensors,
  weightBytes,
} from '../sources/reading-plan.ts';
import { SourceFiles } from '../sources/source-files.ts';
import { tilesOf } from '../sources/tile.ts';
import { storedRows, type WeightRows } from '../sources/weight-rows.ts';
import { largestSideOf, sideModesOf } from './choose-engine.ts';
import type { Plan } from './plan.ts';
import { groupsInOrder, peakMemory } from './plan-figures.ts';
import { probeFactors } from './probe-factors.ts';

/** Seconds, bytes and rates as measured; what was not measured is in `assumes`. */
export interface TimeEstimate {
  /** From the first read to the last durable table. */
  readonly seconds: number;
  /** From the first read to the last mix: a start, memory, and the longer of reading and of products with their algebra. */
  readonly fitSeconds: number;
  /** With making the factors of adapters canonical. */
  readonly readSeconds: number;
  readonly computeSeconds: number;
  /** The small matrices, a few times a slot and block. */
  readonly algebraSeconds: number;
  /** First touch of the memory that the largest group takes. */
  readonly memorySeconds: number;
  readonly writeSeconds: number;
  /** The reading before the run that --verify asks for; not in `seconds`. */
  readonly verifySeconds: number;
  /** Bytes a second. */
  readonly readRate: number;
  /** Floating point operations a second on one thread. */
  readonly flopRate: number;
  readonly probedBytes: number;
  readonly probeSeconds: number;
  readonly assumes: readonly string[];
}

/** Rows of a matrix that is solved for a probe, at most: ml-matrix takes 60 ms. */
const SOLVED_ROWS = 192;
/** Seconds up to which another is solved, of more rows: LAPACK finds few vectors of such a matrix as it does of larger ones. */
const SOLVED_TWICE = 0.03;
const SOLVED_NEXT = 512;

const READ_BUDGET = 0.06;
const VISIT_BUDGET = 0.06;
const MODELS_AT_ONCE = 8;
/** Of one model: enough to tell a disk from a cache, little enough for a slow one. */
const MODEL_BYTES = 2 ** 19;
const PROBE_BYTES = 8 * 2 ** 20;
/** A visit of the probe takes at most this many operations; its panel is narrower where the run's would take more. */
const VISIT_FLOPS = 1e9;
/** Rows and columns of the small matrices at most; their cost grows with the cube. */
const ALGEBRA_SIZE = 160;
const PANELS = 4;
/** Updates until the small algebra is compiled. */
const YOUNG_UPDATES = 24;
/** Not measured, since a plan writes nothing: midway between the fastest and the slowest machine seen. */
const WRITE_RATE = 250e6;
const FILE_SECONDS = 0.004;
const TABLES_SECONDS = 0.15;
/** Waiting for a block's last tile, and the last pass over the directions: so much more than the products alone. */
const WAITING = 1.3;
/** Messages, promises and rows a slot and block. */
const UPDATE_SECONDS = 0.0005;
/** Looking at a slot's weights and making samples of them, a block. */
const SAMPLE_SECONDS = 0.001;
/** Products until the largest eigenpairs settle, as seen on spectra with nothing in them; fewer where there is something. */
const KRYLOV_STEPS = 120;
/** Of the rate of the large products. */
const KRYLOV_SHARE = 0.1;
const SHA_RATE = 1.5e9;
/** What a run's first block costs beside: functions that are not compiled yet, in every thread. */
const START_SECONDS = 0.05;

/**
 * Probes the machine for a plan.
 * Rejects with what reading rejects with, where a file has changed since the plan.
 */
export const estimateTime = async (plan: Plan): Promise<TimeEstimate> => {
  const start = performance.now();
  const reading = await probeReading(plan);
  const device = await openDevice(plan.device.spec);
  const ofModels = plan.config.mode.includes('models');
  const ofSides = sideModesOf(plan.config).length > 0;
  const touchRate = probeMemory();
  const visitRate = ofModels ? probeVisits(plan, device) : null;
  const foldRate = ofSides ? probeFold(plan, device) : null;
  await device.close();
  const algebra = probeAlgebra(plan);
  const solver = plan.engine === 'exact' && ofModels ? probeSolver(plan) : null;
  const probeSeconds = (performance.now() - start) / 1e3;

  const { config, models, slots } = plan;
  const groups = groupsInOrder(plan);
  const blocks = Math.ceil(models.length / config.block);
  const updates = blocks * slots.length;
  // Never more at work than there are tiles, or processors.
  const processors = Math.min(config.threads, availableParallelism());
  const threads = groups.map(({ group, modes }) => Math.min(processors, partsOf(group, modes)));
  const threadSeconds = plan.groupFlops.map((flops) => flops.models / (visitRate ?? 1) + flops.sides / (foldRate ?? 1));
  const computeSeconds = threadSeconds.reduce((sum, seconds, i) => sum + (WAITING * seconds) / threads[i]!, 0);
  const flopRate = plan.flops / threadSeconds.reduce((a, b) => a + b, 0);
  const readPasses = plan.bytesToRead / Math.max(1, weightBytes(slots, models));
  const readSeconds = plan.bytesToRead / reading.rate + probeFactors(plan) * readPasses;
  const young = Math.min(updates, YOUNG_UPDATES);
  const streamSeconds =
    solver !== null
      ? slots.length * prefixSeconds(plan, solver, processors)
      : young * algebra.young + (updates - young) * algebra.warm + updates * UPDATE_SECONDS;
  const sideSeconds = ofSides
    ? slots.reduce((sum, slot) => sum + solverSeconds(plan, slot, algebra, foldRate!, processors), 0) +
      updates * SAMPLE_SECONDS
    : 0;
  const algebraSeconds = (ofModels ? streamSeconds : 0) + sideSeconds;
  const memorySeconds = peakMemory(plan) / touchRate;
  const files = plan.basis ? slots.length * (config.center ? 2 : 1) : 0;
  const writeSeconds = plan.bytesToWrite / WRITE_RATE + files * FILE_SECONDS + TABLES_SECONDS;
  // What a slot too large for the memory has in files is read and written with every block.
  const spillSeconds = (blocks * plan.groupSpill.reduce((a, b) => a + b, 0)) / WRITE_RATE;
  // A block is read while the one before is worked on: only a group's first is waited for.
  const fitSeconds =
    START_SECONDS +
    spillSeconds +
    Math.max(readSeconds, computeSeconds + algebraSeconds) +
    memorySeconds +
    readSeconds / Math.max(1, blocks);
  const fileBytes = models.reduce((sum, { bytes }) => sum + bytes, 0);
  return {
    seconds: fitSeconds + writeSeconds,
    fitSeconds,
    readSeconds,
    computeSeconds,
    algebraSeconds,
    memorySeconds,
    writeSeconds,
    verifySeconds: config.verify ? fileBytes / Math.min(reading.rate, SHA_RATE) : 0,
    readRate: reading.rate,
    flopRate,
    probedBytes: reading.bytes,
    probeSeconds,
    assumes: [
      'reading and multiplying go on at the rate this machine showed just now (what was read may have been in its cache)',
      `writing (and rereading scratch files), which was not tried, takes ${WRITE_RATE / 1e6} MB/s and ${FILE_SECONDS * 1e3} ms a file`,
    ],
  };
};

/** Tiles, or blocks of scatter matrices: what threads can share. */
const partsOf = ({ slots }: SlotGroup, modes: readonly ModeName[]): number =>
  slots.reduce(
    (sum, slot) =>
      sum +
      modes.reduce(
        (all, mode) => all + (mode === 'models' ? tilesOf(slot.features) : blocksOf(sideOf(mode, slot))).length,
        0,
      ),
    0,
  );

/** An update of followed directions: as the incremental engine's, of other numbers of rows. */
const followedAlgebra = ({ config }: Plan, { warm, size }: Algebra): number =>
  warm * ((2 * config.rank + SAMPLES_AT_ONCE) / size) ** 3;

/** A slot's eigenpairs in the modes rows and cols: LAPACK's, or products with a large matrix until they settle. */
const solverSeconds = (plan: Plan, slot: PlannedSlot, algebra: Algebra, foldRate: number, processors: number): number =>
  sideModesOf(plan.config).reduce((sum, mode) => {
    const side = sideOf(mode, slot);
    if (side <= WHOLE_SPECTRUM_SIDE) return sum + algebra.warm * (side / algebra.size) ** 3;
    if (isFollowed(side, { largestSide: largestSideOf(plan.config) }))
      return sum + followedUpdates(slot.features / side, plan.models.length) * followedAlgebra(plan, algebra);
    // In float64 and a few columns at a time, a product runs at a fraction of the rate of the large ones.
    const product = (2 * side ** 2 * KRYLOV_BLOCK) / (KRYLOV_SHARE * foldRate * Math.min(processors, LANES));
    return sum + KRYLOV_STEPS * product;
  }, 0);

/** A block of a scatter matrix takes some samples, as a run has it done. */
const probeFold = ({ slots, config }: Plan, device: Device): number => {
  const sides = slots.flatMap((slot) => sideModesOf(config).map((mode) => sideOf(mode, slot)));
  const side = Math.min(
    BLOCK_SIDE,
    sides.reduce((most, one) => Math.max(most, one), 0),
  );
  const count = Math.max(1, Math.min(2048, Math.floor(VISIT_FLOPS / side ** 2)));
  const values = new Float32Array(count * side).fill(1 / 64);
  const samples = { values, stride: side, stand: 'rows', side, count } as const;
  const extent = { from: 0, to: side };
  const block = { index: 0, rows: extent, columns: extent, offset: 0 };
  const out = new Float64Array(side * side);
  const fold = (): void => device.addScatter(samples, block, out);
  for (let i = 0; i < 2; i++) fold();
  let folds = 0;
  const start = performance.now();
  do {
    fold();
    folds++;
  } while (folds < 64 && performance.now() - start < VISIT_BUDGET * 1e3);
  return (folds * count * side * side) / Math.max(1e-6, (performance.now() - start) / 1e3);
};

/** First touch of fresh memory, bytes a second. */
const probeMemory = (): number => {
  const touched = performance.now();
  const fresh = new Float32Array(2 ** 21).fill(1);
  return fresh.byteLength / Math.max(1e-6, (performance.now() - touched) / 1e3);
};

/** Reads the beginnings of models, spread over the stream; the first round shows the way and does not count. */
const probeReading = async ({ models, slots }: Plan): Promise<{ readonly rate: number; readonly bytes: number }> => {
  const files = new SourceFiles();
  const count = Math.min(models.length, (PROBE_BYTES / MODEL_BYTES) * 4);
  const chosen = Array.from({ length: count }, (_, i) => models[Math.floor((i * models.length) / count)]!);
  const rounds: PlannedModel[][] = [];
  for (let at = 0; at < count; at += MODELS_AT_ONCE) rounds.push(chosen.slice(at, at + MODELS_AT_ONCE));
  const first = rounds.length > 1 ? rounds.shift()! : rounds[0]!;
  const readRound = async (round: readonly PlannedModel[]): Promise<number> => {
    const read = await Promise.all(round.map((model) => readBeginning(files, model, slots)));
    return read.reduce((a, b) => a + b, 0);
  };
  let all = await readRound(first);
  let bytes = 0;
  const start = performance.now();
  for (const round of rounds) {
    bytes += await readRound(round);
    if (bytes >= PROBE_BYTES || performance.now() - start >= READ_BUDGET * 1e3) break;
  }
  all += bytes;
  return { rate: bytes / Math.max(1e-6, (performance.now() - start) / 1e3), bytes: all };
};

/** Reads a model's planned weights up to some bytes, each tensor by a call; returns how many bytes were read. */
const readBeginning = async (files: SourceFiles, model: PlannedModel, slots: Plan['slots']): Promise<number> => {
  let left = MODEL_BYTES;
  const tensors = slots.flatMap((slot) => storedTensors(slot, model));
  const file = model.header.files[tensors[0]!.file]!;
  files.hold(file);
  try {
    for (const tensor of tensors) {
      if (left === 0 || model.header.files[tensor.file] !== file) continue;
      const length = Math.min(left, tensor.byteLength);
      await files.read(file, tensor.offset, [new Uint8Array(length)]);
      left -= length;
    }
  } finally {
    await files.release(file);
  }
  return MODEL_BYTES - left;
};

/** The slot whose products take most of the run, and its shapes when the state is full. */
const mainShape = ({ slots, config, models }: Plan) => {
  const slot = slots.reduce((a, b) => (b.features > a.features ? b : a));
  const spec = { features: slot.features, rank: config.rank, center: config.center, shiftIsOrigin: true };
  const block = Math.min(config.block, models.length);
  return { slot, spec, block, stateRows: maxStateRows(spec, models.length) };
};

/** A block's rows of the first features, of a model's dtype or rank. */
const probeRows = (slot: PlannedSlot, model: PlannedModel, block: number, width: number): WeightRows => {
  const models = Int32Array.from({ length: block }, (_, i) => i);
  const { dtype, lora } = slot.tensorIn(model);
  if (lora !== undefined) {
    // As many rows as the features take, of any numbers that are neither slow nor endless.
    const { rank, cols } = lora;
    const rows = Math.ceil(width / cols);
    const left = new Float32Array(rows * rank).fill(1 / 64);
    const right = new Float32Array(rank * cols).fill(1 / 64);
    const factors = Array.from(models, () => ({ rows, cols, rank, left, right }));
    return { kind: 'factored', width, models, start: 0, factors };
  }
  // Byte 0x3c makes a number near 1/64 or 1 in every dtype.
  const bytes = new Uint8Array(block * width * bytesPerElement(dtype as Dtype)).fill(0x3c);
  return storedRows({ slot: slot.name, dtype: dtype as Dtype, start: 0, stop: width, models, bytes });
};

/** Visits panels as a run does: mixing, widening and shifting the new rows, the Gram. */
const probeVisits = (plan: Plan, device: Device): number => {
  const { slot, block, stateRows: r } = mainShape(plan);
  const before = rowsBeforeBlock(r);
  const adds = mayAdd(slot.features, 1 + r);
  const decoding = block * (slot.tensorIn(plan.models[0]!).lora?.rank ?? 0);
  const perFeature = 2 * ((before + block) * block + (1 + r) * (adds ? block : 1 + r + block) + decoding);
  const width = Math.min(
    slot.features,
    device.panelFor(before + block, plan.engine === 'randomized'),
    Math.max(64, Math.floor(VISIT_FLOPS / perFeature)),
  );
  const batch = probeRows(slot, plan.models[0]!, block, width);
  const rows = Array.from({ length: block }, (_, i) => i);
  const at = rows.map((i) => before + i);
  const constants = new Float32Array(CONSTANT_ROWS * width).fill(1, 0, width);
  const full = new Float32Array((r + 1) * width).fill(1 / 64);
  const gram = new Float64Array((before + block) * block);
  const weights = new Float64Array((1 + r) * (1 + r + block)).fill(1 / (1 + r + block));
  const additions = new Float64Array((1 + r) * block);

  const make = (): DeviceMatrix => {
    const matrix = device.allocate(before + block, width);
    device.write(matrix, 0, constants);
    device.write(matrix, CONSTANT_ROWS, full);
    device.widen([{ batch, rows, at }], 0, matrix, null);
    return matrix;
  };
  const panels = Array.from({ length: PANELS }, make);
  let spare = device.allocate(before + block, width);

  const visit = (i: number): void => {
    const panel = panels[i % PANELS]!;
    if (adds) device.accumulate(additions, 1 + r, panel, CONSTANT_ROWS, block);
    else {
      device.combine(weights, 1 + r, panel, CONSTANT_ROWS, 1 + r + block, spare, CONSTANT_ROWS);
      panels[i % PANELS] = spare;
      spare = panel;
    }
    device.widen([{ batch, rows, at }], 0, panels[i % PANELS]!, 1);
    device.gram(panels[i % PANELS]!, 0, before + block, before, block, gram);
  };
  for (let i = 0; i < 2; i++) visit(i);
  device.settle();
  let visits = 0;
  const start = performance.now();
  do visit(visits++);
  while (visits < 64 && performance.now() - start < VISIT_BUDGET * 1e3);
  device.settle();
  const seconds = Math.max(1e-6, (performance.now() - start) / 1e3);
  for (const panel of [...panels, spare]) device.free(panel);
  return (visits * perFeature * width) / seconds;
};

/** A slot's eigendecompositions, one a prefix of the stream, some at once; their cost grows with the cube. */
const prefixSeconds = ({ models, config, solvers }: Plan, probe: SolverProbe, processors: number): number => {
  const each = prefixesOf(models.length, config.block).map(
    (prefix) => probe.seconds * (prefix.models / probe.rows) ** 3,
  );
  const solved = each.reduce((sum, seconds) => sum + seconds, 0) / Math.min(solvers, processors);
  return Math.max(each.at(-1)!, solved) + each.length * UPDATE_SECONDS;
};

interface SolverProbe {
  readonly rows: number;
  readonly seconds: number;
}

/** One eigendecomposition of a matrix of models, or two unless that takes long. */
const probeSolver = ({ models, device, config }: Plan): SolverProbe => {
  const solve = (most: number): SolverProbe => {
    const rows = Math.min(most, models.length);
    const matrix = Float64Array.from({ length: rows * rows }, (_, at) => {
      const [i, j] = [Math.floor(at / rows), at % rows];
      return i === j ? 1 : 0.1 / (1 + Math.abs(i - j));
    });
    const start = performance.now();
    device.solve(matrix, rows, Math.min(config.rank, rows));
    return { rows, seconds: (performance.now() - start) / 1e3 };
  };
  const young = solve(SOLVED_ROWS);
  return young.seconds > SOLVED_TWICE ? young : solve(SOLVED_NEXT);
};

interface Algebra {
  readonly young: number;
  readonly warm: number;
  /** Rows of the small matrices. */
  readonly size: number;
}

/** One slot's small algebra a block, when it is young and when it is compiled, in seconds. */
const probeAlgebra = (plan: Plan): Algebra => {
  const { spec, block: fullBlock, stateRows } = mainShape(plan);
  const shrink = Math.min(1, ALGEBRA_SIZE / (stateRows + fullBlock + 1));
  const r = Math.floor(stateRows * shrink);
  const block = Math.max(1, Math.floor(fullBlock * shrink));
  const rows = rowsBeforeBlock(r) + block;
  const state: SubspaceState = {
    ...emptySubspace,
    models: r + block,
    eigenvalues: Float64Array.from({ length: r }, (_, i) => 1 / (1 + i)),
    total: r + 1,
    largestNorm2: 1,
    rowsDotMean: new Float64Array(r),
  };
  // Products that shrink away from the diagonal, so that the small matrix is a plausible one.
  const values = Float64Array.from({ length: rows * block }, (_, i) => {
    const distance = Math.abs(Math.floor(i / block) - (i % block) - rowsBeforeBlock(r));
    return distance === 0 ? 1 : 0.1 / (1 + distance);
  });
  const once = (): number => {
    const start = performance.now();
    updateSubspace(
      { ...spec, rank: Math.max(1, Math.ceil(r / 2)) },
      state,
      { values, columns: block, block, shiftSum: 0 },
      plan.device.solve,
      plan.device.multiplyDouble,
    );
    return (performance.now() - start) / 1e3;
  };
  const scale = shrink ** -3;
  const young = once();
  const later: number[] = [];
  const start = performance.now();
  do later.push(once());
  while (later.length < 12 && performance.now() - start < 40);
  return { young: Math.min(young, 0.02) * scale, warm: Math.min(...later) * scale, size: stateRows + fullBlock + 1 };
};
