// A finished run as `compare` and `merge` see it: what it says of itself, and its slots by name.
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ModeName } from '../configs/schema.ts';
import type { EngineName } from '../operators/subspace.ts';
import { type ReadRow, readTable } from '../sinks/read-table.ts';
import { SCHEMA_VERSION } from '../sinks/tables.ts';
import { RunUnusable } from './errors.ts';
import { quoted } from './quoted.ts';
import { CHECKPOINTS } from './run-folder.ts';

/** The part of run.json that is read again. */
export interface RunDescription {
  readonly schema_version: number;
  readonly run_id: string;
  readonly lineage: readonly unknown[];
  readonly config: {
    readonly engine: EngineName;
    readonly mode: readonly ModeName[];
    readonly rank: number;
    readonly center: boolean;
    readonly basis: boolean | 'dense';
  };
}

export interface FinishedRun {
  /** As it was called. */
  readonly run: string;
  readonly description: RunDescription;
  /** Those of slots.parquet, used or not. */
  readonly slots: readonly ReadRow<'slots'>[];
}

/** Rejects with `RunUnusable` where a folder holds no finished run, `DamagedFile` where a file of it does not hold. */
export const readFinishedRun = async (run: string): Promise<FinishedRun> => {
  const path = join(run, 'run.json');
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const isBegun = existsSync(join(run, CHECKPOINTS));
    const detail =
      code !== 'ENOENT' && code !== 'ENOTDIR'
        ? `run.json cannot be read: ${message}`
        : isBegun
          ? `it is not finished; first go on with: weightspan resume ${quoted(run)}`
          : 'expected the folder of a finished run, found no run.json in it';
    throw new RunUnusable({ run, detail });
  }
  let description: RunDescription;
  try {
    description = JSON.parse(text) as RunDescription;
  } catch {
    throw new RunUnusable({ run, detail: 'run.json is no JSON; it was changed, or is not a run’s' });
  }
  const version: unknown = description?.schema_version;
  if (version !== SCHEMA_VERSION || !Array.isArray(description.config?.mode)) {
    const detail = `run.json: expected schema_version ${SCHEMA_VERSION}, found ${JSON.stringify(version) ?? 'none'}`;
    throw new RunUnusable({ run, detail });
  }
  return { run, description, slots: await readTable(run, 'slots') };
};

/** Slots that have results of their own, by name. */
export const usedSlots = ({ slots }: FinishedRun): ReadonlyMap<string, ReadRow<'slots'>> =>
  new Map(slots.filter(({ status }) => status === 'used').map((slot) => [slot.name!, slot]));
