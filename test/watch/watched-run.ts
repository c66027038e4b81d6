// A run folder for tests, written line by line as a run would.
import { appendFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { leaseName, thisProcess } from '../../pipeline/lease-owner.ts';
import type { SlotProgress, TelemetryEvent } from '../../pipeline/telemetry.ts';

export const plan: Extract<TelemetryEvent, { type: 'plan' }> = {
  type: 'plan',
  models: 40,
  slots: 2,
  leftOut: 0,
  skipped: 0,
  groups: 1,
  bytesToRead: 4_000,
  device: 'blas',
  threads: 2,
  memory: 1 << 28,
};

export const progressOf = (slot: string, evr: number, drift: number | null): SlotProgress => ({
  slot,
  rank: 4,
  evr_1: evr / 2,
  evr_4: evr,
  evr_16: null,
  evr_k: evr,
  drift,
  captured: 0.5,
  mean_only: 0.9,
  components_90: 3,
  scree: [evr / 2, evr / 4, evr / 8, evr / 8],
});

export const blockOf = (block: number, slots: readonly SlotProgress[]): TelemetryEvent => ({
  type: 'block',
  group: 0,
  groups: 1,
  block,
  blocks: 10,
  modelsSeen: (block + 1) * 4,
  models: 40,
  bytesRead: (block + 1) * 400,
  bytesToRead: 4_000,
  seconds: block + 1,
  slots,
});

export const failed: TelemetryEvent = { type: 'failed', error: 'SourceMalformed', message: 'b.safetensors: NaN at 3' };

export const stopped: TelemetryEvent = {
  type: 'stopped',
  signal: 'SIGTERM',
  bytesRead: 400,
  bytesToRead: 4_000,
  seconds: 1,
};

export class WatchedRun {
  readonly folder: string;
  #seq = 0;

  constructor(folder = mkdtempSync(join(tmpdir(), 'weightspan-watch-'))) {
    this.folder = folder;
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  }

  tell(...events: readonly TelemetryEvent[]): void {
    for (const event of events) {
      const line = { seq: this.#seq, time: new Date(1_700_000_000_000 + this.#seq++).toISOString(), ...event };
      appendFileSync(join(this.folder, 'events.ndjson'), `${JSON.stringify(line)}\n`);
    }
  }

  /** As if a resumed run had cut the log back, and gone on. */
  restart(...events: readonly TelemetryEvent[]): void {
    writeFileSync(join(this.folder, 'events.ndjson'), '');
    this.#seq = 0;
    for (const event of events) {
      const line = { seq: this.#seq, time: new Date(1_800_000_000_000 + this.#seq++).toISOString(), ...event };
      appendFileSync(join(this.folder, 'events.ndjson'), `${JSON.stringify(line)}\n`);
    }
  }

  /** This process writes it, or with `owner` another. */
  lease(owner: object = thisProcess()): this {
    mkdirSync(join(this.folder, 'checkpoints'), { recursive: true });
    writeFileSync(join(this.folder, 'checkpoints', leaseName(1)), JSON.stringify(owner));
    return this;
  }
}
