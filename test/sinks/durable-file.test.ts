import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { describe, expect, it } from 'vitest';
import { BufferedWriter } from '../../sinks/buffered-writer.ts';
import { type Disk, nodeDisk } from '../../sinks/disk.ts';
import { DurableFile, writeJsonDurably } from '../../sinks/durable-file.ts';
import { SinkFailed } from '../../sinks/errors.ts';
import { failingDisk, fullDisk, shortWritingDisk } from './failing-disk.ts';
import { useTestFolder } from './test-folder.ts';

const folder = useTestFolder();

function caught(step: () => void): SinkFailed {
  try {
    step();
  } catch (error) {
    expect(error).toBeInstanceOf(SinkFailed);
    return error as SinkFailed;
  }
  throw new Error('nothing was thrown');
}

describe('DurableFile', () => {
  it('has no final name before commit, and nothing else after', () => {
    const file = new DurableFile(folder.join('a.bin'));
    file.write(Buffer.from('hello'));
    expect(folder.list()).toEqual(['.tmp-a.bin']);
    file.commit();
    expect(folder.list()).toEqual(['a.bin']);
    expect(fs.readFileSync(folder.join('a.bin'), 'utf8')).toBe('hello');
    file.abort();
    expect(folder.list()).toEqual(['a.bin']);
  });

  it('leaves nothing after abort, and the old file where there was one', () => {
    fs.writeFileSync(folder.join('a.bin'), 'old');
    const file = new DurableFile(folder.join('a.bin'));
    file.write(Buffer.from('new'));
    file.abort();
    expect(folder.list()).toEqual(['a.bin']);
    expect(fs.readFileSync(folder.join('a.bin'), 'utf8')).toBe('old');
  });

  it('replaces what a killed writer left, without following a link', () => {
    fs.writeFileSync(folder.join('victim'), 'untouched');
    fs.symlinkSync(folder.join('victim'), folder.join('.tmp-a.bin'));
    const file = new DurableFile(folder.join('a.bin'));
    file.write(Buffer.from('x'));
    file.commit();
    expect(folder.list()).toEqual(['a.bin', 'victim']);
    expect(fs.readFileSync(folder.join('victim'), 'utf8')).toBe('untouched');
  });

  it('syncs the file before it renames, and the folder after', () => {
    const steps: string[] = [];
    const note =
      <K extends keyof Disk>(name: K) =>
      (...args: unknown[]): never => {
        steps.push(name);
        return (nodeDisk[name] as (...all: unknown[]) => never)(...args);
      };
    const disk: Disk = {
      ...nodeDisk,
      create: note('create'),
      write: note('write'),
      sync: note('sync'),
      close: note('close'),
      rename: note('rename'),
      syncFolder: note('syncFolder'),
    };
    const file = new DurableFile(folder.join('a.bin'), disk);
    file.write(Buffer.from('x'));
    file.commit();
    expect(steps).toEqual(['create', 'write', 'sync', 'close', 'rename', 'syncFolder']);
  });

  it('goes on after short writes', () => {
    const disk = shortWritingDisk(3);
    const file = new DurableFile(folder.join('a.bin'), disk);
    file.writeAll([Buffer.from('0123456789'), new Uint8Array(0), Buffer.from('abcdefg'), Buffer.from('h')]);
    file.commit();
    expect(fs.readFileSync(folder.join('a.bin'), 'utf8')).toBe('0123456789abcdefgh');
    expect(disk.calls).toBe(8);
  });

  it('goes on after gathered writes that end inside a piece', () => {
    // 13 bytes of all pieces at a time, as a pipe or a full disk would take them.
    const disk: Disk = {
      ...nodeDisk,
      write: (fd, pieces) => {
        const all = Buffer.concat(pieces).subarray(0, 13);
        return fs.writeSync(fd, all);
      },
    };
    const pieces = Array.from({ length: 40 }, (_, i) => Buffer.from(`piece ${i};`));
    const file = new DurableFile(folder.join('a.bin'), disk);
    file.writeAll(pieces);
    file.commit();
    expect(fs.readFileSync(folder.join('a.bin'))).toEqual(Buffer.concat(pieces));
    expect(file.written).toBe(Buffer.concat(pieces).length);
  });

  it('takes a write of nothing for an error, not for a reason to try for ever', () => {
    const file = new DurableFile(folder.join('a.bin'), { ...nodeDisk, write: () => 0 });
    expect(caught(() => file.write(Buffer.from('x'))).reason).toBe('io');
  });

  it('says which file and how much when the disk is full, and leaves nothing', () => {
    const file = new DurableFile(folder.join('a.bin'), fullDisk());
    const failure = caught(() => file.write(new Uint8Array(65_536)));
    expect(failure.reason).toBe('no-space');
    expect(failure.message).toBe(
      `${folder.join('a.bin')}: no space left while writing 65.5 kB after the first 0 B (ENOSPC)`,
    );
    expect(folder.list()).toEqual([]);
  });

  it.each([
    ['create', 'EACCES', 'io'],
    ['write', 'EIO', 'io'],
    ['write', 'EDQUOT', 'no-space'],
    ['sync', 'EIO', 'io'],
    ['sync', 'ENOSPC', 'no-space'],
    ['close', 'EIO', 'io'],
    ['rename', 'EIO', 'io'],
  ] as const)('a %s that fails with %s is %s and leaves nothing', (operation, code, reason) => {
    const failure = caught(() => {
      const file = new DurableFile(folder.join('a.bin'), failingDisk(operation, code));
      file.write(Buffer.from('hello'));
      file.commit();
    });
    expect(failure.reason).toBe(reason);
    expect(failure.message).toContain(folder.join('a.bin'));
    expect(failure.message).toContain(code);
    expect(folder.list()).toEqual([]);
  });

  it('never tries a failed sync again', () => {
    const file = new DurableFile(folder.join('a.bin'), failingDisk('sync', 'EIO'));
    const first = caught(() => file.commit());
    expect(caught(() => file.commit())).toBe(first);
    expect(caught(() => file.write(Buffer.from('x')))).toBe(first);
    expect(folder.list()).toEqual([]);
  });

  it('reports a really full file system', ({ skip }) => {
    const mount = folder.join('small');
    fs.mkdirSync(mount);
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', mount], { stdio: 'ignore' });
    } catch {
      skip('mounting needs root');
    }
    try {
      const file = new DurableFile(`${mount}/a.bin`);
      const failure = caught(() => {
        for (let i = 0; i < 4; i++) file.write(new Uint8Array(400_000));
      });
      expect(failure.reason).toBe('no-space');
      expect(fs.readdirSync(mount)).toEqual([]);
      writeJsonDurably(`${mount}/last-words.json`, { ok: true });
    } finally {
      execFileSync('umount', [mount]);
    }
  });
});

describe('BufferedWriter', () => {
  it('writes small and big appends in order, from shared memory too', () => {
    const shared = new Uint8Array(new SharedArrayBuffer(100_000));
    for (let i = 0; i < shared.length; i++) shared[i] = i * 7;
    const expected: Uint8Array[] = [];
    const file = new DurableFile(folder.join('a.bin'));
    const writer = new BufferedWriter(file, 4096);
    for (let i = 0; i < 300; i++) {
      const bytes = i % 3 === 0 ? shared : shared.subarray(i, i + 10 * i);
      writer.appendUint32(i);
      writer.appendBytes(bytes);
      const head = Buffer.alloc(4);
      head.writeUInt32LE(i);
      expected.push(head, Buffer.from(bytes));
    }
    const total = Buffer.concat(expected);
    expect(writer.offset).toBe(total.length);
    writer.finish();
    expect(fs.readFileSync(folder.join('a.bin')).equals(total)).toBe(true);
  });

  it('lets go of what was appended when flushed', () => {
    const bytes = new Uint8Array(50_000).fill(1);
    const writer = new BufferedWriter(new DurableFile(folder.join('a.bin')));
    writer.appendBytes(bytes);
    writer.flush();
    bytes.fill(2);
    writer.finish();
    expect(new Set(fs.readFileSync(folder.join('a.bin')))).toEqual(new Set([1]));
  });
});

describe('writeJsonDurably', () => {
  it('writes what JSON.parse reads', () => {
    writeJsonDurably(folder.join('run.json'), { a: [1, null], name: 'ü' });
    expect(fs.readFileSync(folder.join('run.json'), 'utf8')).toBe(
      '{\n  "a": [\n    1,\n    null\n  ],\n  "name": "ü"\n}\n',
    );
    expect(folder.list()).toEqual(['run.json']);
  });
});
