// The resolved configuration of a run: what flags, a config file and the defaults add up to.
import type { DeviceChoice, PrecisionChoice } from '../operators/devices/device-choice.ts';
import type { CheckpointEvery } from './checkpoint-every.ts';
import type { ModeName } from './schema.ts';

export interface RunConfig {
  readonly sources: readonly string[];
  /** The run folder; null for `plan`. */
  readonly out: string | null;
  /** How a slot's subspace is found; `auto` takes the cheapest that fits the memory. */
  readonly engine: 'incremental' | 'frequent-directions' | 'randomized' | 'exact' | 'auto';
  /** In the order of `modeNames`, each once. */
  readonly mode: readonly ModeName[];
  readonly rank: number;
  readonly block: number;
  /** Engine `randomized`: what its signs are drawn from. */
  readonly seed: number;
  /** Engine `randomized`: 2 sharpens what the first pass over the weights found in another one. */
  readonly passes: 1 | 2;
  readonly base: string | null;
  readonly center: boolean;
  /** Seed of the models' order; null keeps the order given. */
  readonly shuffle: number | null;
  readonly include: readonly string[];
  readonly exclude: readonly string[];
  /** Slots that are also looked at as one, a glob each. */
  readonly groupBy: readonly string[];
  readonly rename: readonly { readonly from: string; readonly to: string }[];
  /** What is analysed of a LoRA adapter: the change of each weight, or its factors A and B as they are. */
  readonly lora: 'delta' | 'factors';
  /** Globs of the families of models that are folded; none: there must be one alone. */
  readonly family: readonly string[];
  readonly onMismatch: 'skip-slot' | 'skip-model' | 'error';
  readonly onBadSource: 'error' | 'skip';
  readonly verify: boolean;
  /** Bytes. */
  readonly memory: number;
  readonly threads: number;
  readonly device: DeviceChoice;
  /** Of products on device cuda. Absent in runs of earlier versions: fp32. */
  readonly precision?: PrecisionChoice;
  /**
   * Write the directions. Of adapters in engine exact and mode models they are sums over the adapters, which coefficients
   * tell, and are written out only where that is asked for: `dense`.
   */
  readonly basis: boolean | 'dense';
  /** Measure each model along the directions of the modes rows and cols, in a second pass. */
  readonly energies: boolean;
  /** Make the core tensor of each slot's HOSVD, in a second pass: engine exact, all three modes. */
  readonly core: boolean;
  /** How often a checkpoint is written; null: so seldom that they cost no more than 5% of the time. */
  readonly checkpointEvery: CheckpointEvery | null;
  /** Leave nothing behind that `extend` would need. */
  readonly dropState: boolean;
  /** Blocks between two snapshots of the tables; null makes none. */
  readonly snapshotEvery: number | null;
  /** Folder for the rows of slots too large for the memory; null: inside the run folder. */
  readonly scratch: string | null;
  /** Folder for TensorBoard's event files; null writes none. Absent in runs of earlier versions. */
  readonly tensorboard?: string | null;
}
