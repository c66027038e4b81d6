// What Prometheus reads at /metrics, taken apart by the rules of its text format.
import http from 'node:http';
import { expect, it, onTestFinished } from 'vitest';
import { startWatchServer, type WatchOptions } from '../../watch/server/watch-server.ts';
import { blockOf, plan, progressOf, stopped, WatchedRun } from './watched-run.ts';

interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** Throws for a line that the format has no place for, and for a sample without its type. */
const parse = (text: string): readonly Sample[] => {
  const types = new Set<string>();
  expect(text.endsWith('\n')).toBe(true);
  return text
    .slice(0, -1)
    .split('\n')
    .flatMap((line) => {
      const type = /^# TYPE ([a-z_:][a-z0-9_:]*) gauge$/.exec(line)?.[1];
      if (type !== undefined) {
        expect(types.has(type), type).toBe(false);
        types.add(type);
        return [];
      }
      if (/^# HELP [a-z0-9_]+ [^\n]+$/.test(line)) return [];
      const found = /^([a-z_:][a-z0-9_:]*)\{((?:[a-z0-9_]+="(?:[^"\\]|\\["\\n])*",?)*)\} (\S+)$/.exec(line);
      if (found === null) throw new Error(`no sample: ${line}`);
      expect(types.has(found[1]!), line).toBe(true);
      const labels = [...found[2]!.matchAll(/([a-z0-9_]+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, value]) => [
        key,
        value!.replace(/\\(.)/g, (_, one: string) => (one === 'n' ? '\n' : one)),
      ]);
      return [
        { name: found[1]!, labels: Object.fromEntries(labels) as Record<string, string>, value: Number(found[3]) },
      ];
    });
};

const ask = async (run: WatchedRun, options: Partial<WatchOptions> = {}, headers: Record<string, string> = {}) => {
  const server = await startWatchServer({ run: run.folder, port: 0, host: null, token: null, ...options });
  onTestFinished(() => server.close());
  return new Promise<{ readonly status: number; readonly type: string; readonly text: string }>((resolve, reject) => {
    http
      .get({ port: server.port, host: '127.0.0.1', path: '/metrics', headers, agent: false }, (response) => {
        let text = '';
        response.setEncoding('utf8').on('data', (part: string) => {
          text += part;
        });
        response.on('end', () =>
          resolve({ status: response.statusCode ?? 0, type: response.headers['content-type'] ?? '', text }),
        );
      })
      .on('error', reject);
  });
};

const metric = (samples: readonly Sample[], name: string, labels: Readonly<Record<string, string>> = {}) => {
  const found = samples.filter(
    (one) =>
      one.name === `weightspan_${name}` && Object.entries(labels).every(([key, value]) => one.labels[key] === value),
  );
  expect(found.length, name).toBeLessThan(2);
  return found[0]?.value;
};

it('tells how far a run is, how fast, and how every slot stands', async () => {
  const run = new WatchedRun().lease();
  run.tell(plan, { type: 'checkpoint', checkpoint: 1, seconds: 0.1 });
  run.tell({ type: 'warning', warning: { code: 'device', slot: null, model: null, value: null, text: 'x' } });
  run.tell(...[0, 1, 2, 3, 4].map((i) => blockOf(i, [progressOf('h.0.w', 0.5, i === 0 ? null : 2)])));
  const { status, type, text } = await ask(run);
  expect([status, type]).toEqual([200, 'text/plain; version=0.0.4; charset=utf-8']);
  const samples = parse(text);
  const told = (name: string, labels = {}) => metric(samples, name, labels);
  expect(told('state', { state: 'running' })).toBe(1);
  expect(told('state', { state: 'finished' })).toBe(0);
  expect([told('models'), told('models_folded')]).toEqual([40, 20]);
  expect([told('read_bytes'), told('to_read_bytes'), told('elapsed_seconds')]).toEqual([2_000, 4_000, 5]);
  expect([told('blocks'), told('blocks_folded'), told('group'), told('groups')]).toEqual([10, 5, 1, 1]);
  // 400 bytes a second, and as many again to read.
  expect([told('read_bytes_per_second'), told('eta_seconds')]).toEqual([400, 5]);
  expect(told('memory_budget_bytes')).toBe(1 << 28);
  expect(told('resident_memory_bytes')).toBeGreaterThan(1e6);
  expect(told('checkpoint_age_seconds')).toBeGreaterThan(0);
  expect([told('warnings'), told('skipped')]).toEqual([1, 0]);
  const slot = { slot: 'h.0.w', mode: 'models' };
  expect(told('slot_evr', { ...slot, cut: '4' })).toBe(0.5);
  expect(told('slot_evr', { ...slot, cut: '16' })).toBeUndefined();
  expect([told('slot_drift_degrees', slot), told('slot_captured', slot)]).toEqual([2, 0.5]);
  expect([told('slot_settled', slot), told('slot_models', slot)]).toEqual([1, 20]);
  expect(['settled', 'moving', 'not started'].map((status) => told('slots', { status }))).toEqual([1, 0, 0]);
});

it('says little of a run that has not begun, and no rate of one that ended', async () => {
  const waiting = parse((await ask(new WatchedRun())).text);
  expect(metric(waiting, 'state', { state: 'waiting' })).toBe(1);
  expect(metric(waiting, 'models')).toBeUndefined();
  const run = new WatchedRun();
  run.tell(plan, blockOf(0, [progressOf('a', 0.5, null)]), stopped);
  const ended = parse((await ask(run)).text);
  expect(metric(ended, 'state', { state: 'interrupted' })).toBe(1);
  expect(metric(ended, 'eta_seconds')).toBeUndefined();
});

it('keeps names from strangers within their quotes', async () => {
  const hostile = ['a"} 1\nweightspan_models{x="', '\\', '\x1b[2J', '', '\u202e', 'x'.repeat(1e5), '\ud800'];
  const run = new WatchedRun().lease();
  run.tell(
    plan,
    blockOf(
      0,
      hostile.map((name) => progressOf(name, 0.5, null)),
    ),
  );
  const samples = parse((await ask(run)).text).filter(({ name }) => name === 'weightspan_slot_models');
  expect(new Set(samples.map(({ labels }) => labels.slot)).size).toBe(hostile.length);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: what must not be there
  for (const { labels } of samples) expect(labels.slot).not.toMatch(/[\x00-\x1f\u202e]|.{300}/);
});

it('leaves slots out beyond some thousands, and says how many', async () => {
  const run = new WatchedRun().lease();
  run.tell(
    plan,
    blockOf(
      0,
      Array.from({ length: 2_100 }, (_, i) => progressOf(`s${i}`, 0.5, null)),
    ),
  );
  const samples = parse((await ask(run)).text);
  expect(samples.filter(({ name }) => name === 'weightspan_slot_models')).toHaveLength(2_000);
  expect(metric(samples, 'slots_left_out')).toBe(100);
});

it('is for who may read the page', async () => {
  const run = new WatchedRun();
  const token = 'a-secret-of-some-length';
  expect((await ask(run, { token })).status).toBe(401);
  expect((await ask(run, { token }, { authorization: `Bearer ${token}` })).status).toBe(200);
  expect((await ask(run, {}, { host: 'evil.example' })).status).toBe(403);
});
