import { Cause } from 'effect';
import { describe, expect, it } from 'vitest';
import { ConfigInvalid } from '../../configs/errors.ts';
import { DeviceUnavailable, NumericalFailure } from '../../operators/errors.ts';
import { describeFailure } from '../../pipeline/commands/report-failure.ts';
import { Interrupted, RunChanged, RunLocked, RunUnusable } from '../../pipeline/errors.ts';
import { exitCodeOf } from '../../pipeline/exit-codes.ts';
import { SinkFailed } from '../../sinks/errors.ts';
import { SourceMalformed, SourceUnavailable } from '../../sources/errors.ts';

const sink = (reason: 'occupied' | 'no-space' | 'io') => new SinkFailed({ path: 'p', reason, detail: 'd' });
const stopped = (signal: NodeJS.Signals) => new Interrupted({ signal, canResume: false, detail: 'd' });

describe('every error has its code', () => {
  it.each<[number, Error]>([
    [64, new ConfigInvalid({ issues: ['i'] })],
    [65, new SourceMalformed({ path: 'p', rule: 'r', detail: 'd' })],
    [65, new NumericalFailure({ slot: 's', detail: 'd' })],
    [69, new DeviceUnavailable({ device: 'd', detail: 'd' })],
    [70, new TypeError('x is not a function')],
    [73, sink('occupied')],
    [74, sink('no-space')],
    [74, sink('io')],
    [74, new SourceUnavailable({ path: 'p', detail: 'd' })],
    [130, stopped('SIGINT')],
    [143, stopped('SIGTERM')],
    [143, stopped('SIGUSR1')],
    [75, new Interrupted({ signal: 'SIGINT', canResume: true, detail: 'd' })],
    [75, new RunLocked({ run: 'r', owner: 'o' })],
    [65, new RunChanged({ run: 'r', differences: ['d'], advice: 'a' })],
    [65, new RunUnusable({ run: 'r', detail: 'd' })],
  ])('%d: %s', (code, error) => {
    expect(exitCodeOf(error)).toBe(code);
  });

  it.each([[null], [undefined], ['text'], [{ _tag: 'Unknown' }], [{ _tag: 3 }]])('%j is a bug', (error) => {
    expect(exitCodeOf(error)).toBe(70);
  });
});

describe('a failure is told', () => {
  it('in a line without a trace, nothing in it that a terminal obeys', () => {
    const error = new SinkFailed({ path: 'a\u001b[2Jb', reason: 'occupied', detail: 'd' });
    expect(describeFailure(Cause.fail(error))).toEqual({
      exitCode: 73,
      error: 'SinkFailed',
      text: 'weightspan: a\\x1b[2Jb: d',
      message: 'a\\x1b[2Jb: d',
    });
  });

  it('in a line an issue', () => {
    expect(describeFailure(Cause.fail(new ConfigInvalid({ issues: ['a: b', 'c: d'] }))).text).toBe(
      'weightspan: a: b\nweightspan: c: d',
    );
  });

  it('as a bug, with its trace, when it is a defect, whatever its tag', () => {
    for (const cause of [
      Cause.die(new TypeError('broken')),
      Cause.die(sink('occupied')),
      Cause.fail(new Error('odd')),
    ]) {
      const { exitCode, error, text } = describeFailure(cause);
      expect([exitCode, error]).toEqual([70, 'Bug']);
      expect(text).toMatch(/^weightspan: this is a bug.*\nNode v.*\n[\s\S]*\n +at /);
    }
  });

  it('by the error, when cleaning up then failed as well', () => {
    const cause = Cause.combine(Cause.fail(sink('no-space')), Cause.die(new Error('close')));
    expect(describeFailure(cause).exitCode).toBe(74);
  });
});
