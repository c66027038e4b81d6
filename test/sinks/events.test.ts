import fs from 'node:fs';
import { describe, expect, it } from 'vitest';
import { type Disk, nodeDisk } from '../../sinks/disk.ts';
import { openEventLog } from '../../sinks/events.ts';
import { failingDisk, fullDisk, shortWritingDisk, systemError } from './failing-disk.ts';
import { block, plan } from './sample-events.ts';
import { useTestFolder } from './test-folder.ts';

const folder = useTestFolder();
const now = () => new Date('2026-11-02T03:04:05.678Z');

function lines(path: string): unknown[] {
  const text = fs.readFileSync(path, 'utf8');
  expect(text.endsWith('\n') || text === '').toBe(true);
  return text
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line));
}

describe('openEventLog', () => {
  it('numbers and dates events, in that order of fields, and goes on from a position, without what came after', () => {
    const path = folder.join('events.ndjson');
    const log = openEventLog(path, { now });
    log.write(plan);
    log.write(block());
    const from = log.position;
    log.write(block());
    log.close();
    const next = openEventLog(path, { now, from });
    next.write({ type: 'failed', error: 'SinkFailed', message: 'x' });
    next.close();
    const time = '2026-11-02T03:04:05.678Z';
    expect(lines(path)).toEqual([
      { seq: 0, time, ...plan },
      { seq: 1, time, ...block() },
      { seq: 2, time, type: 'failed', error: 'SinkFailed', message: 'x' },
    ]);
    expect(fs.readFileSync(path, 'utf8')).toMatch(/^\{"seq":0,"time":"[^"]+","type":"plan",/);
  });

  it('goes on after short writes', () => {
    const path = folder.join('events.ndjson');
    const log = openEventLog(path, { now, disk: shortWritingDisk(5) });
    log.write(plan);
    log.close();
    expect(lines(path)).toHaveLength(1);
  });

  it('fails once on a full disk and is quiet from then on', () => {
    const log = openEventLog(folder.join('events.ndjson'), { disk: fullDisk() });
    expect(() => log.write(plan)).toThrow(expect.objectContaining({ _tag: 'SinkFailed', reason: 'no-space' }));
    log.write(plan);
    log.close();
  });

  it('cuts a half-written line off', () => {
    const path = folder.join('events.ndjson');
    let calls = 0;
    const disk: Disk = {
      ...nodeDisk,
      write: (fd, pieces) => {
        if (++calls === 1) return nodeDisk.write(fd, pieces);
        if (calls === 2) return nodeDisk.write(fd, [pieces[0]!.subarray(0, 10)]);
        throw systemError('ENOSPC');
      },
    };
    const log = openEventLog(path, { now, disk });
    log.write(plan);
    expect(() => log.write(plan)).toThrow('no space left while appending event 1');
    expect(lines(path)).toHaveLength(1);
  });

  it.each(['openAppend', 'sync', 'close'] as const)('says when %s fails', (operation) => {
    expect(() => {
      const log = openEventLog(folder.join('events.ndjson'), { disk: failingDisk(operation, 'EIO') });
      log.write(plan);
      log.close();
    }).toThrow(expect.objectContaining({ _tag: 'SinkFailed', reason: 'io' }));
  });
});
