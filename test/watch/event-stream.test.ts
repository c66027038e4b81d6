// Readers of every speed: one that takes nothing costs one frame and is dropped, and nobody waits for it.
import { EventEmitter } from 'node:events';
import type { ServerResponse } from 'node:http';
import { expect, it } from 'vitest';
import type { LogLine } from '../../sinks/event-tail.ts';
import { EventStream, eventId } from '../../watch/server/event-stream.ts';

class FakeResponse extends EventEmitter {
  readonly written: string[] = [];
  takes = true;
  isDestroyed = false;
  status = 0;
  writeHead(status: number): this {
    this.status = status;
    return this;
  }
  write(frame: string | Buffer): boolean {
    this.written.push(frame.toString());
    return this.takes;
  }
  end(): void {
    this.emit('close');
  }
  destroy(): void {
    this.isDestroyed = true;
    this.emit('close');
  }
  get ids(): string[] {
    return this.written.flatMap((frame) => /^id: (\d+)-/m.exec(frame)?.[1] ?? []);
  }
}

const line = (seq: number): LogLine => {
  const event = { type: 'checkpoint', checkpoint: 1, seconds: 0, seq, time: new Date(seq).toISOString() } as const;
  return { event, text: JSON.stringify(event) };
};
const lines = (from: number, to: number): LogLine[] => Array.from({ length: to - from }, (_, i) => line(from + i));

const open = (stream: EventStream, after: string): FakeResponse => {
  const response = new FakeResponse();
  stream.open(response as unknown as ServerResponse, after);
  return response;
};

const idOf = (seq: number): string => eventId({ seq, time: new Date(seq).toISOString() });

it('writes one frame to who does not read, drops it in time, and serves the others meanwhile', () => {
  let now = 0;
  const stream = new EventStream({ now: () => now, dropAfterMs: 1_000 });
  stream.push(lines(0, 1));
  const [quick, slow] = [open(stream, idOf(0)), open(stream, idOf(0))];
  slow.takes = false;
  for (let seq = 1; seq < 500; seq++) stream.push([line(seq)]);
  expect(quick.ids).toEqual(Array.from({ length: 499 }, (_, i) => String(i + 1)));
  expect(slow.ids).toEqual(['1']);
  now = 999;
  stream.beat();
  expect([slow.isDestroyed, stream.clients]).toEqual([false, 2]);
  now = 1_001;
  stream.beat();
  expect([slow.isDestroyed, stream.clients]).toEqual([true, 1]);
  expect(quick.written.at(-1)).toBe(': beat\n\n');
});

it('sends a reader that is slow what it lacks when it reads again, if that is still there', () => {
  const stream = new EventStream();
  stream.push(lines(0, 1));
  const slow = open(stream, idOf(0));
  slow.takes = false;
  stream.push(lines(1, 10));
  slow.takes = true;
  slow.emit('drain');
  expect(slow.ids).toEqual(['1', '2', '3', '4', '5', '6', '7', '8', '9']);
});

it('sends a reader that is too slow to the newest state', () => {
  const stream = new EventStream({ ringBytes: 500 });
  stream.push(lines(0, 1));
  const slow = open(stream, idOf(0));
  slow.takes = false;
  stream.push(lines(1, 100));
  slow.takes = true;
  slow.emit('drain');
  expect(slow.written.at(-1)).toBe(`event: behind\nid: ${idOf(99)}\ndata: {}\n\n`);
  stream.push(lines(100, 101));
  expect(slow.ids.at(-1)).toBe('100');
});

it('keeps no more than it was told to, but always the newest', () => {
  const stream = new EventStream({ ringBytes: 1 });
  stream.push(lines(0, 50));
  expect(open(stream, idOf(48)).ids).toEqual(['49']);
  expect(open(stream, idOf(47)).written.at(-1)).toContain('event: behind');
});

it('sends a line of a stranger that would break into fields as one', () => {
  const stream = new EventStream();
  const reader = open(stream, eventId({ seq: -1, time: null }));
  const { event } = line(0);
  stream.push([{ event, text: JSON.stringify(event).replace(',', ',\r') }]);
  const frame = reader.written.at(-1)!;
  expect(frame).not.toContain('\r');
  expect(JSON.parse(/^data: (.*)$/m.exec(frame)![1]!)).toEqual(event);
});

it('refuses more pages than it can serve', () => {
  const stream = new EventStream({ mostClients: 2 });
  expect([open(stream, ''), open(stream, ''), open(stream, '')].map(({ status }) => status)).toEqual([200, 200, 503]);
  expect(stream.clients).toBe(2);
});

it('forgets a reader that has left', () => {
  const stream = new EventStream();
  open(stream, '').emit('close');
  expect(stream.clients).toBe(0);
});
