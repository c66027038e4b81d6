// The part `watch`: what a page costs the run it shows, and how it bears many events. A run over 0.8 GB is started again and
// again, by turns alone and with --watch, ten readers and one that never reads; processor seconds are those of the whole
// process, so that others at work on the machine count less than they would on a clock. Then 1,000 events a second, of one
// slot each, go for a minute to a page over 300 slots in a real Chromium.
import { appendFileSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { launchChromium } from './chromium.mjs';
import { runWatched, startServer } from './command.mjs';
import { describeMachine } from './machine.mjs';
import { ensureModelSet, setBytes } from './model-set.mjs';
import { openReaders } from './page-readers.mjs';
import { printTable, writeResults } from './results.mjs';
import { median } from './statistics.mjs';

const MIB = 2 ** 20;
const MEMORY = 512 * MIB;
const READERS = 10;
const COST_TARGET = 0.05;
const OVER_TARGET = 256 * MIB;
const FRAMES_TARGET = 30;
const HEAP_TARGET = 200e6;
const EVENTS_A_SECOND = 1_000;
const SLOTS = 300;

async function measurePairs(data, quick) {
  const set = { models: quick ? 32 : 128, shapes: Array.from({ length: 24 }, () => [256, 256]), seed: 20258 };
  const models = ensureModelSet(join(data, quick ? 'watch-quick' : 'watch'), set);
  const out = join(data, 'run-watch');
  const args = [models, '--rank', 16, '--block', 4, '--memory', MEMORY, '--threads', 2, '--out', out];
  const one = async (isWatched) => {
    rmSync(out, { recursive: true, force: true });
    let readers = null;
    const onStderr = (text) => {
      const url = /watched at (http:\S+)/.exec(text)?.[1];
      if (url !== undefined) readers = openReaders(url, READERS);
    };
    const { cpuSeconds, peakBytes, events } = await runWatched(isWatched ? [...args, '--watch'] : args, { onStderr });
    const got = await (readers?.ended ?? []);
    const blocks = events.filter(({ type }) => type === 'block').length;
    return { cpu_s: cpuSeconds, peak: peakBytes, blocks, events_read: got };
  };
  const pairs = [];
  try {
    await one(false); // Reads the models into the page cache.
    for (let i = 0; i < (quick ? 2 : 10); i++) {
      // Whoever comes first may find the machine warmer.
      const first = await one(i % 2 === 1);
      const second = await one(i % 2 === 0);
      const [alone, watched] = i % 2 === 1 ? [second, first] : [first, second];
      pairs.push({ alone, watched, cost: watched.cpu_s / alone.cpu_s - 1 });
      console.error(`  pair ${i + 1}: ${alone.cpu_s.toFixed(2)} s, watched ${watched.cpu_s.toFixed(2)} s`);
    }
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
  return { bytes: setBytes(set), pairs };
}

const slotName = (slot) => `model.layers.${Math.floor(slot / 6)}.module_${slot % 6}.weight`;

/** Lines of events.ndjson: a plan, and then blocks that each tell of one slot. */
function* logLines() {
  const line = (seq, event) => `${JSON.stringify({ seq, time: new Date().toISOString(), ...event })}\n`;
  const far = 1e9;
  const models = { models: far, bytesToRead: far };
  yield line(0, {
    type: 'plan',
    slots: SLOTS,
    leftOut: 0,
    skipped: 0,
    groups: 1,
    device: 'x',
    threads: 2,
    memory: MEMORY,
    ...models,
  });
  for (let seq = 1; ; seq++) {
    const round = Math.ceil(seq / SLOTS);
    const share = (shift) => 0.5 + 0.4 * Math.sin(seq / 97 + shift);
    yield line(seq, {
      type: 'block',
      group: 0,
      groups: 1,
      block: round,
      blocks: far,
      modelsSeen: 4 * round,
      bytesRead: 4 * seq,
      seconds: seq / EVENTS_A_SECOND,
      ...models,
      slots: [
        {
          slot: slotName(seq % SLOTS),
          rank: 16,
          evr_1: share(0) / 3,
          evr_4: share(0) / 2,
          evr_16: share(0),
          evr_k: share(0),
          drift: 45 * share(1),
          captured: share(2),
          mean_only: 0.9,
          components_90: 1 + (seq % 16),
          scree: Array.from({ length: 16 }, (_, j) => Number((share(0) / 2 ** (j + 1)).toPrecision(4))),
        },
      ],
    });
  }
}

async function measurePage(seconds) {
  const run = mkdtempSync(join(tmpdir(), 'weightspan-bench-watch-'));
  const log = join(run, 'events.ndjson');
  mkdirSync(join(run, 'checkpoints'));
  const lines = logLines();
  appendFileSync(log, Array.from({ length: SLOTS + 1 }, () => lines.next().value).join(''));
  const server = await startServer(['watch', run]);
  const browser = await launchChromium();
  try {
    const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
    await page.goto(server.url);
    await page.waitForFunction((slots) => document.querySelectorAll('a.cell').length === slots, SLOTS);
    const devtools = await page.context().newCDPSession(page);
    await devtools.send('Performance.enable');
    await page.evaluate(() => {
      globalThis.frames = [];
      const note = (at) => {
        globalThis.frames.push(at);
        requestAnimationFrame(note);
      };
      requestAnimationFrame(note);
    });
    const heaps = [];
    const start = performance.now();
    let told = 0;
    while (performance.now() - start < seconds * 1e3) {
      const due = Math.floor(((performance.now() - start) / 1e3) * EVENTS_A_SECOND);
      appendFileSync(log, Array.from({ length: due - told }, () => lines.next().value).join(''));
      const isNextSecond = Math.floor(due / EVENTS_A_SECOND) > Math.floor(told / EVENTS_A_SECOND);
      told = due;
      if (isNextSecond) {
        const { metrics } = await devtools.send('Performance.getMetrics');
        heaps.push(metrics.find(({ name }) => name === 'JSHeapUsedSize').value);
      }
      await sleep(20);
    }
    await sleep(1_000);
    const seen = SLOTS + told;
    const last = await page.evaluate(() => document.querySelector('[data-fact="read"]').textContent);
    const frames = await page.evaluate(() => globalThis.frames);
    const intervals = frames.slice(1).map((at, i) => at - frames[i]);
    return {
      seconds,
      events: told,
      shown: last,
      expected: 4 * seen,
      frames: frames.length,
      frames_a_second: 1e3 / median(intervals),
      worst_frame_ms: Math.max(...intervals),
      heap_bytes: Math.max(...heaps),
    };
  } finally {
    await browser.close();
    server.kill();
    rmSync(run, { recursive: true, force: true });
  }
}

/** @returns whether all was measured; a target that is missed is told, not failed */
export async function benchWatch({ data, quick }) {
  const { bytes, pairs } = await measurePairs(data, quick);
  const page = await measurePage(quick ? 5 : 60);
  const cost = median(pairs.map((pair) => pair.cost));
  const peak = Math.max(...pairs.map(({ watched }) => watched.peak));
  const alone = Math.max(...pairs.map((pair) => pair.alone.peak));
  const told = (met) => (met ? 'met' : 'MISSED');
  const seconds = (name) => median(pairs.map((pair) => pair[name].cpu_s)).toFixed(2);
  const mebibytes = (value) => `${(value / MIB).toFixed(0)} MiB`;
  const read = pairs.flatMap(({ watched }) => watched.events_read);
  printTable(`watch: ${pairs.length} pairs of runs over ${(bytes / 1e9).toFixed(2)} GB, medians`, [
    ['', 'CPU time', 'peak', 'events a reader got'],
    ['alone', `${seconds('alone')} s`, mebibytes(alone), ''],
    [
      `${READERS} readers, one silent`,
      `${seconds('watched')} s`,
      mebibytes(peak),
      `${Math.min(...read)} to ${Math.max(...read)}`,
    ],
  ]);
  printTable('against the targets', [
    ['', '', 'target', ''],
    ['CPU time above, median of pairs', `${(100 * cost).toFixed(1)}%`, 'at most 5%', told(cost <= COST_TARGET)],
    ['peak - --memory', mebibytes(peak - MEMORY), 'at most 256 MiB', told(peak - MEMORY <= OVER_TARGET)],
    [
      'frames a second, median',
      page.frames_a_second.toFixed(0),
      'at least 30',
      told(page.frames_a_second >= FRAMES_TARGET),
    ],
    [
      'JavaScript heap, most',
      `${(page.heap_bytes / 1e6).toFixed(0)} MB`,
      'below 200 MB',
      told(page.heap_bytes < HEAP_TARGET),
    ],
  ]);
  console.log(
    `  ${page.events} events in ${page.seconds} s; the page ended at ${page.shown}; its worst frame took ${page.worst_frame_ms.toFixed(0)} ms`,
  );
  writeResults(quick ? 'watch-quick' : 'watch', {
    machine: describeMachine(),
    cost,
    peak,
    peak_alone: alone,
    memory: MEMORY,
    pairs,
    page,
  });
  return true;
}
