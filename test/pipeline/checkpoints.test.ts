// What a run's checkpoints do where one of them fails, and where several are on their way at once.
import { mkdirSync, readdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import type { SavedGroup } from '../../operators/incremental-engine.ts';
import { emptySubspace } from '../../operators/subspace-state.ts';
import type { Begin } from '../../pipeline/begin.ts';
import {
  Checkpoints,
  type CheckpointsOptions,
  checkpointFolder,
  type PendingSlots,
  type Position,
} from '../../pipeline/checkpoints.ts';
import { Lease } from '../../pipeline/lease.ts';
import type { OpenFile } from '../../sinks/checkpoint-store.ts';
import { nodeDisk } from '../../sinks/disk.ts';
import { writeFully } from '../../sinks/durable-file.ts';
import { temporaryFolder } from './cli-process.ts';

const positionAfter = (models: number): Position => ({
  done: { models, sides: 0 },
  groups: models,
  sums: null,
  sumsDone: false,
  bytesRead: 0,
  bytesToRead: 0,
  seconds: 0,
  events: { size: 0, seq: 0 },
});

const optionsIn = async (run: string): Promise<CheckpointsOptions> => {
  mkdirSync(checkpointFolder(run));
  return {
    run,
    lease: await Lease.take(run, checkpointFolder(run)),
    begin: { generations: [8] } as unknown as Begin,
    every: null,
    expectedBytes: 0,
    roots: [],
    inexact: [],
    written: () => {},
    outputs: () => Promise.resolve(),
  };
};

/** Saves a group of one slot, whose rows are its number. */
const saveSlot = (checkpoints: Checkpoints, slotId: number, blocks = 2): Promise<PendingSlots> => {
  const save = async ({ fd }: OpenFile): Promise<SavedGroup> => {
    const rows = Buffer.from(`rows of slot ${slotId} after block ${blocks}`);
    writeFully(nodeDisk, fd, [rows]);
    const slot = { slotId, state: emptySubspace, map: null, norms2: null, rowsAt: 0 };
    const sha256 = String(slotId * 100 + blocks).padStart(64, '0');
    return { slots: [slot], size: rows.length, pieces: [[1, rows.length]], sha256: [...sha256].reverse().join('') };
  };
  return checkpoints.save({ first: slotId, slots: 1, models: 8, blocks }, save, null);
};

const namesIn = (run: string, stem: string): readonly string[] =>
  readdirSync(checkpointFolder(run)).filter((name) => name.startsWith(`${stem}-`));

it('a checkpoint that failed is told from then on, and leaves none of its files', async () => {
  const run = temporaryFolder();
  const options = await optionsIn(run);
  const checkpoints = Checkpoints.create(options);
  checkpoints.commitRunning(await saveSlot(checkpoints, 0, 1), positionAfter(0));
  await checkpoints.settled();
  checkpoints.check();
  const before = namesIn(run, 'rows');
  symlinkSync('nowhere', join(checkpointFolder(run), 'manifest-00000002.json'));
  checkpoints.commitRunning(await saveSlot(checkpoints, 0, 2), positionAfter(0));
  checkpoints.commitRunning(await saveSlot(checkpoints, 0, 3), positionAfter(0));
  await expect(checkpoints.settled()).rejects.toThrow(/manifest-00000002\.json.*EEXIST/);
  expect(() => checkpoints.check()).toThrow(/manifest-00000002\.json.*EEXIST/);
  expect(namesIn(run, 'rows')).toEqual(before);
  expect(namesIn(run, 'manifest')).toEqual(['manifest-00000001.json']);
  checkpoints.close();
  options.lease.release();
});
