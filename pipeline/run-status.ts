// What a run folder tells of its run, live or not.

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Recovered } from '../sinks/checkpoint-store.ts';
import { formatBytes, formatDuration, formatPlural, formatRate } from '../sinks/human-format.ts';
import { escapeControls } from '../sinks/terminal-text.ts';
import { type Begin, contentsOf } from './begin.ts';
import { checkpointFolder, type RunContent, readBegin } from './checkpoints.ts';
import { keepsState } from './choose-engine.ts';
import { keptProblem } from './kept-slots.ts';
import { leaseHolder } from './lease.ts';
import { quoted } from './quoted.ts';
import type { TelemetryEvent } from './telemetry.ts';

type Block = Extract<TelemetryEvent, { type: 'block' }>;

export interface RunStatus {
  readonly run: string;
  readonly stage: 'finished' | 'running' | 'stopped';
  /** Null where only the results are there. */
  readonly begin: Begin | null;
  readonly checkpoint: {
    readonly sequence: number;
    readonly time: string;
    /** Groups done, and of the next one its blocks and models. */
    readonly groups: number;
    readonly blocks: number;
    readonly models: number;
    readonly bytesRead: number;
    readonly bytesToRead: number;
    readonly seconds: number;
    /** Bytes of its files. */
    readonly bytes: number;
    readonly canExtend: boolean;
  } | null;
  /** Why newer checkpoints do not count. */
  readonly damages: readonly string[];
  /** Who writes it now. */
  readonly owner: string | null;
  /** The last block it reported. */
  readonly block: Block | null;
}

/** Throws `SinkFailed`. */
export const statusOf = (run: string, { manifest, damages }: Recovered<RunContent>): RunStatus => {
  const owner = leaseHolder(checkpointFolder(run));
  const content = manifest?.content ?? null;
  const begin = manifest === null ? null : readBegin(run, manifest);
  const isFinished = content === null ? existsSync(join(run, 'run.json')) : content.stage === 'finished';
  return {
    run,
    stage: isFinished ? 'finished' : owner === null ? 'stopped' : 'running',
    begin,
    checkpoint:
      manifest === null
        ? null
        : {
            sequence: manifest.sequence,
            time: manifest.time,
            groups: manifest.content.groups,
            blocks: manifest.content.saved[0]?.blocks ?? 0,
            models: manifest.content.saved[0]?.models ?? 0,
            bytesRead: manifest.content.bytesRead,
            bytesToRead: manifest.content.bytesToRead,
            seconds: manifest.content.seconds,
            bytes: manifest.files.reduce((sum, { size }) => sum + size, 0),
            canExtend:
              begin !== null &&
              (!keepsState(begin.config.engine, begin.config) ||
                !begin.config.mode.includes('models') ||
                keptProblem(begin, manifest.content) === null),
          },
    damages: damages.map(({ message }) => message),
    owner,
    block: lastBlock(join(run, 'events.ndjson')),
  };
};

/** Lines enough to hold a block of thousands of slots. */
const TAIL = 2 ** 24;

const lastBlock = (path: string): Block | null => {
  let text: string;
  try {
    text = readFileSync(path).subarray(-TAIL).toString();
  } catch {
    return null;
  }
  const line = text.split('\n').findLast((one) => one.includes('"type":"block"') && one.endsWith('}'));
  if (line === undefined) return null;
  try {
    return JSON.parse(line) as Block;
  } catch {
    return null;
  }
};

const rateOf = ({ block, checkpoint }: RunStatus): number | null => {
  const at = block ?? checkpoint;
  return at === null || at.seconds <= 0 ? null : at.bytesRead / at.seconds;
};

export const statusToJson = (status: RunStatus): unknown => {
  const { begin, checkpoint, block } = status;
  return {
    run: status.run,
    stage: status.stage,
    engine: begin?.config.engine ?? null,
    mode: begin?.config.mode ?? null,
    models: begin?.used.length ?? null,
    slots: begin?.slots.length ?? null,
    generations: begin?.generations ?? null,
    sources: begin?.config.sources ?? null,
    device: begin?.device ?? null,
    verified: begin === null ? null : contentsOf(begin).size > 0,
    bytes_read: block?.bytesRead ?? checkpoint?.bytesRead ?? null,
    bytes_to_read: block?.bytesToRead ?? checkpoint?.bytesToRead ?? null,
    bytes_per_second: rateOf(status),
    group: block?.group ?? null,
    block: block?.block ?? null,
    models_seen: block?.modelsSeen ?? null,
    checkpoint:
      checkpoint === null
        ? null
        : {
            sequence: checkpoint.sequence,
            time: checkpoint.time,
            groups: checkpoint.groups,
            blocks: checkpoint.blocks,
            models_seen: checkpoint.models,
            bytes_read: checkpoint.bytesRead,
            bytes: checkpoint.bytes,
            verifies: true,
            can_extend: checkpoint.canExtend,
          },
    damages: status.damages,
    owner: status.owner,
  };
};

const stages = { finished: 'finished', running: 'running', stopped: 'stopped before its end' } as const;

export const renderStatus = (status: RunStatus): readonly string[] => {
  const { run, stage, begin, checkpoint, damages, owner, block } = status;
  const line = (title: string, text: string): string => `${title.padEnd(11)}${escapeControls(text)}`;
  const rate = rateOf(status);
  const share = (at: { bytesRead: number; bytesToRead: number }): string =>
    at.bytesToRead > 0 ? `, ${formatBytes(at.bytesRead)} of ${formatBytes(at.bytesToRead)}` : '';
  const lines = [line('run', `${run}: ${stages[stage]}`)];
  if (begin !== null) {
    const { engine, mode, rank, block: size } = begin.config;
    const added = begin.generations.length > 1 ? ` in ${begin.generations.length} generations` : '';
    lines.push(
      line('what', `${engine}, mode ${mode.join(', ')}, rank ${rank}, block ${size}`),
      line(
        'models',
        `${formatPlural(begin.used.length, 'model')}${added}, ${formatPlural(begin.slots.length, 'slot')}`,
      ),
      line('device', `${begin.device.library} ${begin.device.version}, kernel ${begin.device.kernel}`),
    );
  }
  if (stage !== 'finished' && block !== null) {
    const where = `group ${block.group + 1} of ${block.groups}, block ${block.block + 1} of ${block.blocks}`;
    const eta = rate === null ? 0 : (block.bytesToRead - block.bytesRead) / rate;
    const left = stage === 'running' && rate !== null ? `, about ${formatDuration(eta)} left` : '';
    lines.push(line('work', `${where}${share(block)}${rate === null ? '' : ` at ${formatRate(rate)}`}${left}`));
  }
  if (checkpoint !== null) {
    const blocks = checkpoint.blocks > 0 ? ` and ${formatPlural(checkpoint.blocks, 'block')}` : '';
    const at =
      stage === 'finished' ? '' : `, after ${formatPlural(checkpoint.groups, 'group')}${blocks}${share(checkpoint)}`;
    lines.push(
      line(
        'checkpoint',
        `${checkpoint.sequence} of ${checkpoint.time}${at}; it holds (${formatBytes(checkpoint.bytes)})`,
      ),
    );
  } else if (stage !== 'finished') lines.push(line('checkpoint', 'none that holds'));
  for (const damage of damages) lines.push(line('damaged', damage));
  lines.push(line('owner', owner ?? 'nobody'));
  const next = {
    finished: checkpoint?.canExtend === true ? `weightspan extend ${quoted(run)} SOURCES` : null,
    running: null,
    stopped: checkpoint === null ? null : `weightspan resume ${quoted(run)}`,
  }[stage];
  if (next !== null) lines.push(line('next', next));
  return lines;
};
