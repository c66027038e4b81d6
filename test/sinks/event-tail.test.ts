// The log is read while it is written: whatever the pieces, every line once; torn and foreign lines are passed over.
import { appendFileSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, it, onTestFinished } from 'vitest';
import { EventTail } from '../../sinks/event-tail.ts';

const logFile = (): string => {
  const folder = mkdtempSync(join(tmpdir(), 'weightspan-tail-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return join(folder, 'events.ndjson');
};

const text = (seq: number, word = 'é'): string => JSON.stringify({ seq, time: 't', type: 'skip', word });
const seqsOf = ({ lines }: Awaited<ReturnType<EventTail['look']>>): number[] => lines.map(({ event }) => event.seq);

it('finds every line once, however it is cut into appends', async () => {
  const path = logFile();
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.string(), { maxLength: 8 }),
      fc.array(fc.nat(400), { maxLength: 8 }),
      async (words, cuts) => {
        const bytes = Buffer.from(words.map((word, i) => `${text(i, word)}\n`).join(''));
        writeFileSync(path, '');
        const tail = new EventTail(path);
        const found: number[] = [];
        const ends = [...cuts.map((cut) => Math.min(cut, bytes.length)), bytes.length].sort((a, b) => a - b);
        let from = 0;
        for (const end of ends) {
          appendFileSync(path, bytes.subarray(from, end));
          from = end;
          found.push(...seqsOf(await tail.look()));
        }
        expect(found).toEqual(words.map((_, i) => i));
      },
    ),
    { numRuns: 50 },
  );
});

it.each([
  '{',
  'null',
  '[]',
  '{"seq":1}',
  '{"seq":"1","time":"t","type":"x"}',
  '{"seq":1.5,"time":"t","type":"x"}',
  '\0',
])('passes over %j', async (line) => {
  const path = logFile();
  writeFileSync(path, `${text(0)}\n${line}\n${text(1)}\n`);
  expect(seqsOf(await new EventTail(path).look())).toEqual([0, 1]);
});

it('begins again where the log was cut back, also when it has grown beyond since', async () => {
  const path = logFile();
  writeFileSync(path, `${text(0)}\n${text(1)}\n`);
  const tail = new EventTail(path);
  await tail.look();
  truncateSync(path, Buffer.byteLength(`${text(0)}\n`));
  appendFileSync(path, `${text(1, 'other')}\n${text(2)}\n`);
  const look = await tail.look();
  expect([look.isAnew, seqsOf(look)]).toEqual([true, [0, 1, 2]]);
  expect(await tail.look()).toMatchObject({ isAnew: false, lines: [] });
});

it('says when the log is gone, and finds the next one', async () => {
  const path = logFile();
  const tail = new EventTail(path);
  expect(await tail.look()).toMatchObject({ exists: false, isAnew: false });
  writeFileSync(path, `${text(0)}\n`);
  expect(seqsOf(await tail.look())).toEqual([0]);
  rmSync(path);
  expect(await tail.look()).toMatchObject({ exists: false, isAnew: true });
});
