// Checkpoints on a disk that loses power at any operation, fails at any, or writes short.
import { describe, expect, it } from 'vitest';
import { AppendLog } from '../../sinks/append-log.ts';
import { CheckpointStore, type Recovered, recoverCheckpoint } from '../../sinks/checkpoint-store.ts';
import { type Disk, nodeDisk } from '../../sinks/disk.ts';
import { SinkFailed } from '../../sinks/errors.ts';
import { failingDisk, shortWritingDisk, systemError } from './failing-disk.ts';
import { MemoryDisk, PowerLoss } from './memory-disk.ts';
import { useTestFolder } from './test-folder.ts';

interface Content {
  readonly step: number;
}

const RUN = 'run';
const FOLDER = 'run/checkpoints';
const LOG = 'checkpoints/records.log';

const record = (step: number): Uint8Array => Buffer.from(`record of step ${step}\n`.repeat(step));
const rows = (step: number): Uint8Array => Buffer.from(`rows of step ${step}, `.repeat(40));
const logUpTo = (step: number): Buffer => Buffer.concat(Array.from({ length: step }, (_, i) => record(i + 1)));

/** Writes checkpoints of steps `from` … `to`; `done` is told of each that is durable. */
const work = async (
  disk: Disk,
  run: string,
  after: Recovered<Content> | null,
  to: number,
  done: (step: number) => void = () => {},
): Promise<void> => {
  const folder = `${run}/checkpoints`;
  const fence = (after?.manifest?.fence ?? 0) + 1;
  const store = new CheckpointStore<Content>(folder, fence, after, { disk });
  const cut = after?.manifest?.logs[0];
  const log =
    cut === undefined
      ? AppendLog.create(`${run}/${LOG}`, disk)
      : AppendLog.reopen(`${run}/${LOG}`, cut, () => {}, disk);
  for (let step = (after?.manifest?.content.step ?? 0) + 1; step <= to; step++) {
    log.append(record(step));
    const file = await store.put('rows', 'bin', rows(step));
    await log.sync();
    await store.commit({ step }, [file], [{ name: LOG, ...log.cut() }]);
    done(step);
  }
  log.close();
};

/** The step that a disk recovers to, having looked at what it is made of. */
const stepOf = (disk: Disk, run: string): { step: number; recovered: Recovered<Content> } => {
  const recovered = recoverCheckpoint<Content>(run, `${run}/checkpoints`, disk);
  if (recovered.manifest === null) return { step: 0, recovered };
  const { content, files, logs } = recovered.manifest;
  const bytesOf = (path: string, size: number): Buffer => {
    const fd = disk.open(path);
    const bytes = Buffer.alloc(size);
    disk.read(fd, bytes, 0);
    disk.close(fd);
    return bytes;
  };
  expect(bytesOf(`${run}/checkpoints/${files[0]!.name}`, files[0]!.size).equals(rows(content.step))).toBe(true);
  expect(bytesOf(`${run}/${logs[0]!.name}`, logs[0]!.size).equals(logUpTo(content.step))).toBe(true);
  return { step: content.step, recovered };
};

const STEPS = 4;

describe('power loss', () => {
  it('at every operation, with every loss of what was not synced: the checkpoint before or the new one', async () => {
    const whole = new MemoryDisk();
    await work(whole, RUN, null, STEPS);
    let looked = 0;
    for (let loseAt = 0; loseAt < whole.operations; loseAt++) {
      const disk = new MemoryDisk(new Map(), loseAt);
      let durable = 0;
      await work(disk, RUN, null, STEPS, (step) => {
        durable = step;
      }).catch((error) => {
        if (!(error instanceof PowerLoss) && !(error instanceof SinkFailed)) throw error;
      });
      for (const files of disk.survivors()) {
        looked++;
        const after = new MemoryDisk(files);
        const { step } = stepOf(after, RUN);
        // The work may go on past the loss in no step but the one that was being written.
        if (step !== durable && step !== durable + 1)
          expect.fail(`lost at ${loseAt}: found ${step}, expected ${durable}`);
      }
    }
    expect(whole.operations).toBeGreaterThan(40);
    expect(looked).toBeGreaterThan(900);
  });

  it('and once more while it goes on from there', async () => {
    for (let loseAt = 10; loseAt < 60; loseAt += 7) {
      const disk = new MemoryDisk(new Map(), loseAt);
      await work(disk, RUN, null, STEPS).catch(() => {});
      for (const files of disk.survivors()) {
        const first = new MemoryDisk(files);
        const { step, recovered } = stepOf(first, RUN);
        await work(first, RUN, recovered.manifest === null ? null : recovered, step + 2);
        expect(stepOf(first, RUN).step).toBe(step + 2);
        const second = new MemoryDisk(files, 12);
        await work(second, RUN, recovered.manifest === null ? null : recovered, step + 2).catch(() => {});
        for (const later of second.survivors()) {
          const again = stepOf(new MemoryDisk(later), RUN).step;
          if (again < step || again > step + 2) expect.fail(`went back from ${step} to ${again}`);
        }
      }
    }
  });
});

describe('a disk that fails', () => {
  const folder = useTestFolder();
  const operations = ['create', 'write', 'syncLater', 'rename', 'syncFolder', 'size'] as const;

  it.each(operations.flatMap((operation) => [['EIO'], ['ENOSPC']].map(([code]) => [operation, code!] as const)))(
    '%s says %s, at any time: told, and the checkpoint before holds',
    async (operation, code) => {
      const run = folder.path;
      nodeDisk.close(nodeDisk.create(folder.join('marker')));
      const { mkdirSync, rmSync } = await import('node:fs');
      for (let at = 0; ; at++) {
        mkdirSync(`${run}/checkpoints`, { recursive: true });
        let durable = 0;
        const disk = failingDisk(operation, code, at);
        const failure = await work(disk, run, null, STEPS, (step) => {
          durable = step;
        }).then(
          () => null,
          (error) => error,
        );
        if (failure !== null) {
          expect(failure).toBeInstanceOf(SinkFailed);
          expect(failure.reason).toBe(code === 'ENOSPC' ? 'no-space' : 'io');
        }
        const { step, recovered } = stepOf(nodeDisk, run);
        // A sync that failed may have written all the same.
        expect([durable, durable + 1]).toContain(step);
        await work(nodeDisk, run, recovered.manifest === null ? null : recovered, step + 1);
        expect(stepOf(nodeDisk, run).step).toBe(step + 1);
        rmSync(`${run}/checkpoints`, { recursive: true });
        if (failure === null) {
          expect(at).toBeGreaterThan(STEPS - 1);
          return;
        }
      }
    },
  );

  it('writes short and reads short: nothing is lost', async () => {
    const run = folder.path;
    const { mkdirSync } = await import('node:fs');
    mkdirSync(`${run}/checkpoints`);
    const disk: Disk = {
      ...shortWritingDisk(7),
      read: (fd, into, at) => nodeDisk.read(fd, into.subarray(0, 5), at),
    };
    await work(disk, run, null, 2);
    const recovered = recoverCheckpoint<Content>(run, `${run}/checkpoints`, disk);
    expect(recovered).toMatchObject({ manifest: { content: { step: 2 } }, damages: [] });
    await work(disk, run, recovered, 3);
    expect(stepOf(nodeDisk, run).step).toBe(3);
  });

  it('a writer that may not write any more leaves no manifest', async () => {
    const disk = new MemoryDisk();
    const store = new CheckpointStore<Content>(FOLDER, 1, null, {
      disk,
      mayWrite: () => {
        throw systemError('EPERM');
      },
    });
    const file = await store.put('rows', 'bin', rows(1));
    await expect(store.commit({ step: 1 }, [file], [])).rejects.toThrow(/EPERM/);
    expect(disk.list(FOLDER).filter((name) => name.startsWith('manifest'))).toEqual([]);
  });
});

describe('a large file that is written for a while', () => {
  it('is synced again and again until it is written, and what is synced leaves the page cache', async () => {
    const disk = new MemoryDisk();
    let forgotten = 0;
    const forget = async (): Promise<void> => {
      expect(++forgotten).toBe(syncs);
    };
    let syncs = 0;
    let end = (): void => {};
    const writing = new Promise<void>((resolve) => {
      end = resolve;
    });
    const sync = disk.syncLater.bind(disk);
    const syncLater = async (fd: number): Promise<void> => {
      await sync(fd);
      if (++syncs === 3) end();
    };
    const store = new CheckpointStore<Content>(FOLDER, 1, null, { disk: Object.assign(disk, { syncLater, forget }) });
    const file = store.open('rows');
    await store.flushWhile(file, writing);
    expect([syncs, forgotten]).toEqual([3, 3]);
    await store.seal(file, 'rows', 'bin', { size: 0, sha256: '0'.repeat(64), pieces: null });
    expect([syncs, forgotten]).toEqual([4, 4]);
  });

  it('a sync that fails is told, whatever comes of the writing', async () => {
    const disk = Object.assign(new MemoryDisk(), { syncLater: () => Promise.reject(systemError('EIO')) });
    const store = new CheckpointStore<Content>(FOLDER, 1, null, { disk });
    const never = new Promise<void>(() => {});
    await expect(store.flushWhile(store.open('rows'), never)).rejects.toThrow(SinkFailed);
  });

  it('a writing that fails is no failure of the syncs', async () => {
    const store = new CheckpointStore<Content>(FOLDER, 1, null, { disk: new MemoryDisk() });
    await store.flushWhile(store.open('rows'), Promise.reject(new Error('of the writer')));
  });
});

it('keeps two checkpoints and what they name, and nothing else', async () => {
  const disk = new MemoryDisk();
  await work(disk, RUN, null, 6);
  const names = disk.list(FOLDER);
  expect(names.filter((name) => name.startsWith('manifest-'))).toEqual([
    'manifest-00000005.json',
    'manifest-00000006.json',
  ]);
  expect(names.filter((name) => name.startsWith('rows-'))).toHaveLength(2);
});
