// Fifty kills at random moments of one run of some twenty seconds, of the engines incremental and exact on every device of the
// processor, and twenty-five of the other engines and of a card, whose commits are the same; resumed every time.
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cardEnvironment } from '../card.ts';
import { devices } from '../operators/devices.ts';
import { readWithHyparquet } from '../sinks/parquet-readers.ts';
import { runCli } from './cli-process.ts';
import { runKilled, type Slot, writeMany } from './killing.ts';
import { tableDigests } from './table-digests.ts';

const KILLS = 50;
const FEWER_KILLS = 25;

const root = mkdtempSync(join(tmpdir(), 'weightspan-kills-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

interface Way {
  readonly engine: 'incremental' | 'frequent-directions' | 'randomized' | 'exact';
  readonly models: number;
  readonly slots: readonly Slot[];
  readonly options: readonly string[];
  readonly kills: number;
  /** Different places that are gone on from, at least. */
  readonly places: number;
}

// Both in several groups. The engine exact goes on from the ends of groups, so it has many small ones.
const incremental: Way = {
  engine: 'incremental',
  models: 2400,
  slots: Array.from({ length: 6 }, (_, i) => ({ name: `layer.${i}`, shape: [256, 256 + 16 * i] })),
  options: ['--block', '8', '--memory', '24MiB', '--checkpoint-every', '8'],
  kills: KILLS,
  places: 10,
};
/** Grams that every checkpoint has. */
const sums = ['*.1*', '*.2*', '*.3*', '*.4*', '*.5*'];
const exact: Omit<Way, 'models'> = {
  engine: 'exact',
  slots: Array.from({ length: 120 }, (_, i) => ({ name: `layer.${i}`, shape: [48, 64 + (i % 9)] })),
  options: ['--block', '8', '--checkpoint-every', '1', ...sums.flatMap((glob) => ['--group-by', glob])],
  kills: KILLS,
  places: 10,
};

/** A run of some twenty seconds: eigenvalues without a BLAS take their time. */
const exactOn = (device: string): Way => {
  const [models, memory] = device === 'blas' ? [300, '24MiB'] : [200, '12MiB'];
  return { ...exact, models, options: [...exact.options, '--memory', memory] };
};

/** What these engines keep besides, on the first device alone: kills come between the same steps as on the other. */
const others = (['frequent-directions', 'randomized'] as const).map((engine) => ({
  ...incremental,
  engine,
  kills: FEWER_KILLS,
}));

/** A card's double does one thing at a time, and takes its time: fewer models. */
const onCard = cardEnvironment === null ? [] : [{ ...incremental, name: 'cuda', models: 900, kills: FEWER_KILLS }];
Object.assign(process.env, cardEnvironment);

const ways = [
  ...devices.flatMap(({ name }, i) =>
    [incremental, exactOn(name), ...(i === 0 ? others : [])].map((way) => ({ name: name as string, ...way })),
  ),
  ...onCard,
];

const folderOf = ({ slots, models }: Pick<Way, 'slots' | 'models'>): string => join(root, `${slots.length}-${models}`);

beforeAll(() => {
  for (const way of ways) if (!existsSync(folderOf(way))) writeMany(folderOf(way), way.models, 24, way.slots);
});

describe.each(ways)('$engine on $name', ({ name, engine, models, slots, options, kills, places }) => {
  it('leaves what a run leaves that was never stopped, and every model once', async () => {
    const args = [folderOf({ slots, models }), '--rank', '4', '--device', name, '--engine', engine, ...options];
    const whole = join(root, `${name}-${engine}-whole`);
    const began = performance.now();
    const plain = await runCli(['run', ...args, '--out', whole, '--quiet']);
    const seconds = (performance.now() - began) / 1e3;
    expect(plain.code, plain.stderr).toBe(0);
    const out = join(root, `${name}-${engine}`);
    // A device without a BLAS takes longer to be ready: a life must be long enough to get somewhere.
    const ready = name === 'blas' ? 0.25 : 0.75;
    // Lives that end before the run does, though a machine may be faster now than when it was timed.
    const killed = await runKilled(args, out, { kills, span: ready + (1.8 * seconds) / kills, seed: 7 });
    process.stderr.write(`${engine} on ${name}, ${seconds.toFixed(1)} s: ${JSON.stringify(killed)}\n`);
    expect(tableDigests(out)).toEqual(tableDigests(whole));
    const coefficients = await readWithHyparquet(join(out, 'coefficients.parquet'));
    expect(coefficients).toHaveLength(models * (slots.length + (engine === 'exact' ? 1 + sums.length : 0)));
    expect(new Set(coefficients.map(({ slot_id, model_id }) => `${slot_id}/${model_id}`)).size).toBe(
      coefficients.length,
    );
    const seqs = readFileSync(join(out, 'events.ndjson'), 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line).seq);
    expect(seqs).toEqual(seqs.map((_, i) => i));
    expect(killed.kills).toBe(kills);
    expect(killed.inCommits).toBeGreaterThanOrEqual(5);
    expect(killed.places).toBeGreaterThanOrEqual(places);
  });
});
