// The tables as of a block, while the run goes on: for people and their tools, never read again by the run.
import { mkdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { BlockUpdate } from '../operators/incremental-pca.ts';
import type { DoubleProduct } from '../operators/linalg/dense-products.ts';
import type { SubspaceEstimate } from '../operators/subspace.ts';
import { nodeDisk } from '../sinks/disk.ts';
import { sinkFailure, TEMPORARY_PREFIX, writeJsonDurably } from '../sinks/durable-file.ts';
import { SCHEMA_VERSION } from '../sinks/tables.ts';
import type { Plan } from './plan.ts';
import { groupsInOrder } from './plan-figures.ts';
import { writeModels, writeSlots } from './run-folder.ts';
import { spooledHistory } from './slot-history.ts';
import { SlotTables } from './slot-tables.ts';
import type { UpdateSpool } from './update-spool.ts';

/** Which block of the run, all groups counted, a group's block is. */
const blockOfRun = ({ group, index, blocks }: BlockUpdate): number => group.index * blocks + index + 1;

/**
 * Writes `snapshots/000123/`, where 123 counts the run's blocks: the slots of the running group, the models folded so far.
 * Appears whole. Throws `SinkFailed`.
 * @returns the folder, relative to the run's
 */
export const writeSnapshot = (
  out: string,
  plan: Plan,
  update: BlockUpdate,
  estimates: readonly SubspaceEstimate[],
  spool: UpdateSpool,
  skippedOf: (slotId: number) => ReadonlyMap<number, string>,
  product: DoubleProduct,
): string => {
  const name = String(blockOfRun(update)).padStart(6, '0');
  const temporary = join(out, 'snapshots', TEMPORARY_PREFIX + name);
  const final = join(out, 'snapshots', name);
  const seen: Plan = { ...plan, models: plan.models.slice(0, update.modelsSeen) };
  try {
    mkdirSync(temporary, { recursive: true });
    const tables = new SlotTables(temporary, seen, { modes: 'models' });
    try {
      for (const estimate of estimates)
        tables.append(estimate, spooledHistory(spool, estimate, product), skippedOf(estimate.slot.id));
    } catch (error) {
      tables.abort();
      throw error;
    }
    tables.close();
    writeSlots(temporary, seen);
    writeModels(temporary, seen, new Map(), new Map(), () => null);
    writeJsonDurably(join(temporary, 'snapshot.json'), {
      schema_version: SCHEMA_VERSION,
      group: update.group.index,
      groups: groupsInOrder(plan).length,
      block: update.index,
      blocks: update.blocks,
      models_seen: update.modelsSeen,
      models: plan.models.length,
      slots: estimates.map(({ slot }) => slot.id),
    });
    // Of a block that a resumed run has folded again.
    rmSync(final, { recursive: true, force: true });
    renameSync(temporary, final);
    nodeDisk.syncFolder(join(out, 'snapshots'));
  } catch (cause) {
    rmSync(temporary, { recursive: true, force: true });
    throw sinkFailure(final, 'writing a snapshot', cause);
  }
  return `snapshots/${name}`;
};
