// What a run's checkpoints do where one of them fails, and where several are on their way at once.
import { createHash } from 'node:crypto';
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
  recoverRun,
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

const digest = (bytes: Uint8Array): Buffer => createHash('sha256').update(bytes).digest();

/** Saves a group of one slot, whose rows are its number. */
const saveSlot = (checkpoints: Checkpoints, slotId: number, blocks = 2): Promise<PendingSlots> => {
  const save = async ({ fd }: OpenFile): Promise<SavedGroup> => {
    const rows = Buffer.from(`rows of slot ${slotId} after block ${blocks}`);
    writeFully(nodeDisk, fd, [rows]);
    const slot = { slotId, state: emptySubspace, map: null, norms2: null, rowsAt: 0 };
    const sha256 = digest(digest(rows)).toString('hex');
    return { slots: [slot], size: rows.length, pieces: [[1, rows.length]], sha256 };
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

it('a checkpoint has what it kept of groups that were done when it was asked for, each once', async () => {
  const run = temporaryFolder();
  const options = await optionsIn(run);
  const before = Checkpoints.create(options);
  before.commitRunning(await saveSlot(before, 0), positionAfter(0));
  await before.settled();
  before.close();

  // Goes on where all blocks of slot 0 have been folded.
  const checkpoints = Checkpoints.reopen(options, recoverRun(run), () => {});
  const kept = (): readonly number[] => recoverRun(run).manifest!.content.kept.map(({ first }) => first);
  checkpoints.mark(positionAfter(0));
  checkpoints.commitMark();
  checkpoints.keepRestored(0, 1);
  await checkpoints.settled();
  expect(kept()).toEqual([]);
  // Several are asked for before any is written.
  const [one, two, three] = [
    await saveSlot(checkpoints, 1),
    await saveSlot(checkpoints, 2),
    await saveSlot(checkpoints, 3),
  ];
  checkpoints.keep(one);
  checkpoints.commitRunning(two, positionAfter(2));
  checkpoints.keep(two);
  checkpoints.commitRunning(three, positionAfter(3));
  checkpoints.keep(three);
  checkpoints.commitFinished(positionAfter(4));
  await checkpoints.settled();
  expect(kept()).toEqual([0, 1, 2, 3]);
  checkpoints.close();
  options.lease.release();
});

it('sums are written one array after the other, and read so', async () => {
  const run = temporaryFolder();
  const options = await optionsIn(run);
  const before = Checkpoints.create(options);
  before.mark(positionAfter(1));
  before.commitMark(() => [Uint8Array.of(1, 2, 3), Uint8Array.of(4, 5)]);
  await before.settled();
  before.close();
  const recovered = recoverRun(run);
  const { content, files } = recovered.manifest!;
  expect(files.find(({ name }) => name === content.sums)).toMatchObject({
    size: 5,
    pieces: [
      [1, 3],
      [1, 2],
    ],
  });
  const checkpoints = Checkpoints.reopen(options, recovered, () => {});
  const second = new Uint8Array(2);
  checkpoints.read(content.sums!, second, 3);
  expect([...second]).toEqual([4, 5]);
  expect(() => checkpoints.read(content.sums!, second, 4)).toThrow(/sums-.*: failed while reading it.*ends at byte 5/);
  checkpoints.close();
  options.lease.release();
});
