import { spawn } from 'node:child_process';
import { PassThrough, Writable } from 'node:stream';
import { describe, expect, it, vi } from 'vitest';
import { openNdjson } from '../../sinks/ndjson.ts';
import { block, done, plan } from './sample-events.ts';

describe('openNdjson', () => {
  it('writes every event as one line', async () => {
    const stream = new PassThrough();
    const sink = openNdjson(stream);
    const skip = { type: 'skip', model: 'line\nbreak\u2028', slot: null, reason: '' } as const;
    for (const event of [plan, block(), skip]) sink.write(event);
    await sink.flush();
    const lines = String(stream.read()).split('\n');
    expect(lines.pop()).toBe('');
    expect(lines.map((line) => JSON.parse(line))).toEqual([plan, block(), skip]);
  });

  it('goes quiet when the reader of a real pipe leaves, and says so once', async () => {
    const reader = spawn('head', ['-n', '1'], { stdio: ['pipe', 'pipe', 'ignore'] });
    let head = '';
    reader.stdout.on('data', (chunk) => {
      head += String(chunk);
    });
    const closed = vi.fn();
    const sink = openNdjson(reader.stdin, closed);
    for (let i = 0; i < 10_000 && sink.open; i++) {
      sink.write(plan);
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(sink.open).toBe(false);
    sink.write(done());
    await sink.flush();
    expect(closed).toHaveBeenCalledTimes(1);
    expect(JSON.parse(head)).toEqual(plan);
  });

  it('survives an error for every write under way', async () => {
    const stream = new Writable({
      write: (_chunk, _encoding, next) =>
        setImmediate(() => next(Object.assign(new Error('EPIPE'), { code: 'EPIPE' }))),
    });
    const closed = vi.fn();
    const sink = openNdjson(stream, closed);
    for (let i = 0; i < 5; i++) sink.write(plan);
    await sink.flush();
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(closed).toHaveBeenCalledTimes(1);
  });

  it('drops progress for a slow reader, and nothing else', () => {
    const stream = new Writable({ write: () => {} });
    const sink = openNdjson(stream);
    for (let i = 0; i < 10_000; i++) sink.write(block());
    expect(stream.writableLength).toBeLessThan(1.1 * 2 ** 20);
    const before = stream.writableLength;
    sink.write(done());
    expect(stream.writableLength).toBe(before + JSON.stringify(done()).length + 1 + extraBytes(JSON.stringify(done())));
  });
});

function extraBytes(text: string): number {
  return Buffer.byteLength(text) - text.length;
}
