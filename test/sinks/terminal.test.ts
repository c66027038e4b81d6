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

/** Up n lines, to the first column. */
const up = (n: number): string => `\x1b[${n}A\r`;

/** What a terminal shows of what was written: the few sequences that a redraw uses, on a screen of so many rows. */
function screenOf(text: string, rows: number): { readonly screen: readonly string[]; readonly history: number } {
  const screen: string[] = Array.from({ length: rows }, () => '');
  let [at, history] = [0, 0];
  // biome-ignore lint/suspicious/noControlCharactersInRegex: what is taken apart
  for (const [part, n] of text.matchAll(/\x1b\[(\d*)[AKJ]|\r|\n|[^\x1b\r\n]+/g)) {
    if (part === '\n' && at < rows - 1) at++;
    else if (part === '\n') {
      screen.shift();
      screen.push('');
      history++;
    } else if (part.endsWith('A') && n !== undefined) at = Math.max(0, at - Number(n));
    else if (part === '\x1b[J') {
      // As tmux does: a screen that is cleared as a whole goes into the history.
      if (at === 0) history += rows;
      screen.fill('', at);
    } else if (part !== '\r' && part !== '\x1b[K') screen[at] = part;
  }
  return { screen: screen.slice(0, at + 1), history };
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

  it('writes ever fewer lines of a run that goes on: some two hundred in a night', () => {
    const { terminal, clock, take } = open();
    const at: number[] = [];
    for (let second = 0; second < 36_000; second++) {
      clock.ms = second * 1e3;
      terminal.show(block());
      if (take() !== '') at.push(second);
    }
    expect(at.slice(0, 4)).toEqual([0, 5, 10, 15]);
    expect(at.length).toBeGreaterThan(100);
    expect(at.length).toBeLessThan(250);
    expect(Math.max(...at.slice(1).map((time, i) => time - at[i]!))).toBe(300);
  });

  it('has colours in CI, and redraws nothing', () => {
    const { terminal, take } = open({ isTTY: true, env: { CI: 'true' } });
    for (const event of [block(), block(), done()]) terminal.show(event);
    const text = take();
    expect(text).toContain('\x1b[1m');
    // biome-ignore lint/suspicious/noControlCharactersInRegex: what must not be there
    expect(text).not.toMatch(/\x1b\[\d*[AJK]/);
  });

  it.each([
    ['a pipe', { isTTY: false, env: {} }],
    ['TERM=dumb', { isTTY: true, env: { TERM: 'dumb' } }],
    ["Slurm's log", { isTTY: false, env: { SLURM_JOB_ID: '7', TERM: 'xterm-256color' } }],
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
    const text = take();
    expect(text.startsWith(`${up(7)}${'█'.repeat(20)}${'░'.repeat(20)}  50%`)).toBe(true);
    expect(text.endsWith('\x1b[K\n\x1b[J')).toBe(true);
    expect(text.split('\x1b[K\n')).toHaveLength(8);
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
    expect(take().startsWith(up(13))).toBe(true);
  });

  it('prints lines that stay above the view, and the summary in its place', () => {
    const { terminal, take } = open({ isTTY: true, env: { NO_COLOR: '1' } });
    terminal.show(block());
    take();
    terminal.show({ type: 'skip', model: 'm1', slot: 'head', reason: 'shape' });
    const text = take();
    expect(text.startsWith(`${up(7)}skipped m1, head: shape\x1b[K\n██████████░`)).toBe(true);
    expect(text.split('\n')).toHaveLength(9);
    terminal.show(done());
    expect(take().startsWith(`${up(7)}128 models, 2 slots`)).toBe(true);
  });

  it('leaves no trace of itself on a screen that it fills, however often it is redrawn', () => {
    const { terminal, clock, take, stream } = open({ isTTY: true, env: { NO_COLOR: '1' } });
    stream.rows = 8;
    for (let i = 0; i < 20; i++) {
      clock.ms = 1000 * i;
      terminal.show(block({ bytesRead: 1e8 * (i + 1) }));
      if (i === 10) terminal.show({ type: 'write', file: 'a', bytes: 1 });
    }
    const { screen, history } = screenOf(take(), 8);
    expect(history).toBe(0);
    expect(screen[0]).toContain('25%');
    expect(screen.filter((line) => line.includes('%'))).toHaveLength(1);
  });

  it('tells notices above the view', () => {
    const { terminal, take } = open({ isTTY: true, env: { NO_COLOR: '1' } });
    terminal.show(block());
    terminal.show({ type: 'notice', text: 'the disk is\x1b full' });
    const { screen } = screenOf(take(), 24);
    expect(screen[0]).toBe('weightspan: the disk is\\x1b full');
    expect(screen[1]).toContain('25%');
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
