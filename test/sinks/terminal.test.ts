import { PassThrough, Writable } from 'node:stream';
import { describe, expect, it, vi } from 'vitest';
import { Terminal, type TerminalStream } from '../../sinks/terminal.ts';
import { block, done, plan } from './sample-events.ts';

/** A stream that keeps what is written, terminal or not, and a clock that the test moves. */
function open(options: { isTTY?: boolean; env?: Record<string, string>; columns?: number } = {}) {
  const { isTTY = false, env = {}, columns = 100 } = options;
  let text = '';
  const stream: TerminalStream = Object.assign(
    new Writable({
      write: (chunk, _, next) => {
        text += String(chunk);
        next();
      },
    }),
    isTTY ? { isTTY, columns, rows: 24 } : {},
  );
  const clock = { ms: 0 };
  const terminal = new Terminal(stream, { env, now: () => clock.ms });
  const take = (): string => {
    const taken = text;
    text = '';
    return taken;
  };
  return { terminal, clock, take, stream };
}

/** Up n lines, to the first column, clear from there. */
function eraseLines(n: number): string {
  return `\x1b[${n}A\r\x1b[J`;
}

describe('Terminal on a pipe', () => {
  it('writes the first block, one every five seconds, the last, and the summary', async () => {
    const { terminal, clock, take } = open();
    terminal.show(plan);
    for (let i = 0; i < 130; i++) {
      clock.ms = i * 100;
      terminal.show(block({ block: i, blocks: 130 }));
    }
    const lines = take().split('\n');
    expect(lines[0]).toMatch(/^1,024 models · 3 slots/);
    expect(lines.slice(1, -1).map((line) => /block (\d+)/.exec(line)?.[1])).toEqual(['1', '51', '101']);
    terminal.show(done());
    const end = take();
    expect(end).toMatch(/^ 25%.*block 130\/130/);
    expect(end).toContain('128 models, 2 slots: 4.00 GB folded');
    await terminal.close();
    expect(take()).toBe('');
  });

  it.each([
    ['a pipe', { isTTY: false, env: {} }],
    ['TERM=dumb', { isTTY: true, env: { TERM: 'dumb' } }],
    ['NO_COLOR in CI', { isTTY: true, env: { NO_COLOR: '1', CI: 'true' } }],
  ])('uses no escapes on %s', (_, options) => {
    const { terminal, take } = open(options);
    for (const event of [plan, block(), block(), done()]) terminal.show(event);
    expect(take()).not.toContain('\x1b');
  });

  it('names ten skipped models and then where the rest is', () => {
    const { terminal, take } = open();
    for (let i = 0; i < 30; i++)
      terminal.show({ type: 'skip', model: `m${i}\x1b[1m`, slot: null, reason: 'no header' });
    const lines = take().trimEnd().split('\n');
    expect(lines).toHaveLength(11);
    expect(lines[0]).toBe('skipped m0\\x1b[1m: no header');
    expect(lines[10]).toBe('more is skipped: see models.parquet and model_slots.parquet');
  });
});

describe('Terminal on a terminal', () => {
  it('redraws in place, at most five times a second', () => {
    const { terminal, clock, take } = open({ isTTY: true, env: { NO_COLOR: '1' } });
    terminal.show(block());
    const first = take();
    expect(first.split('\n')).toHaveLength(8);
    expect(first).not.toContain('\x1b');
    clock.ms = 199;
    terminal.show(block());
    expect(take()).toBe('');
    clock.ms = 200;
    terminal.show(block({ bytesRead: 4e9 }));
    expect(take().startsWith(`${eraseLines(7)}${'█'.repeat(20)}${'░'.repeat(20)}  50%`)).toBe(true);
  });

  it('draws what came too soon a little later', () => {
    vi.useFakeTimers();
    try {
      const { terminal, clock, take } = open({ isTTY: true });
      terminal.show(block());
      clock.ms = 50;
      terminal.show(block({ bytesRead: 6e9 }));
      take();
      clock.ms = 200;
      vi.advanceTimersByTime(150);
      expect(take()).toContain('75%');
      expect(vi.getTimerCount()).toBe(0);
    } finally {
      vi.useRealTimers();
    }
  });

  it('counts lines that wrap since the window shrank', () => {
    const { terminal, clock, take, stream } = open({ isTTY: true, env: { NO_COLOR: '1' } });
    terminal.show(block());
    take();
    stream.columns = 40;
    clock.ms = 1000;
    terminal.show(block());
    // Six lines of text, one empty; all six are wider than 40 cells, none than 80.
    expect(take().startsWith(eraseLines(13))).toBe(true);
  });

  it('prints lines that stay above the view, and the summary in its place', () => {
    const { terminal, take } = open({ isTTY: true, env: { NO_COLOR: '1' } });
    terminal.show(block());
    take();
    terminal.show({ type: 'skip', model: 'm1', slot: 'head', reason: 'shape' });
    const text = take();
    expect(text.startsWith(`${eraseLines(7)}skipped m1, head: shape\n██████████░`)).toBe(true);
    expect(text.split('\n')).toHaveLength(9);
    terminal.show(done());
    expect(take().startsWith(`${eraseLines(7)}128 models, 2 slots`)).toBe(true);
  });

  it('colours unless NO_COLOR is set', () => {
    const coloured = open({ isTTY: true });
    coloured.terminal.show(block());
    expect(coloured.take()).toContain('\x1b[36m');
  });
});

describe('Terminal whose reader leaves', () => {
  it('goes quiet, says so once, and close resolves', async () => {
    const stream = new PassThrough();
    const closed = vi.fn();
    const terminal = new Terminal(stream, { env: {}, onClosed: closed });
    terminal.show(plan);
    stream.destroy(Object.assign(new Error('write EPIPE'), { code: 'EPIPE' }));
    await new Promise((resolve) => setImmediate(resolve));
    for (const event of [block(), done()]) terminal.show(event);
    await terminal.close();
    expect(closed).toHaveBeenCalledTimes(1);
    expect(closed.mock.calls[0]![0]).toMatchObject({ code: 'EPIPE' });
  });
});
