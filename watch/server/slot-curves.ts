// What each slot showed after each block, for the curves of a run that is going on; a finished one has its tables. Memory is
// bounded: where a slot has more points than its share, every other one of them goes, the newest excepted.
import type { LoggedEvent } from '../../pipeline/telemetry.ts';
import type { Curves } from '../view/answers.ts';

export const CURVES = ['models_seen', 'evr_1', 'evr_4', 'evr_16', 'evr_k', 'drift', 'captured', 'mean_only'] as const;

const MOST_POINTS = 1 << 20;
const LEAST_A_SLOT = 64;
const MOST_A_SLOT = 2048;

export class SlotCurves {
  readonly #points = new Map<string, number[][]>();

  add(event: LoggedEvent): void {
    if (event.type !== 'block') return;
    for (const slot of event.slots) {
      let points = this.#points.get(slot.slot);
      if (points === undefined) {
        points = [];
        this.#points.set(slot.slot, points);
      }
      // A generation, or a group that began again: what was later is not any more.
      while (points.length > 0 && points.at(-1)![0]! >= event.modelsSeen) points.pop();
      const { evr_1, evr_4, evr_16, evr_k, drift, captured, mean_only } = slot;
      points.push(
        [event.modelsSeen, evr_1, evr_4, evr_16, evr_k, drift, captured ?? null, mean_only ?? null].map(
          (value) => value ?? Number.NaN,
        ),
      );
      const most = Math.max(LEAST_A_SLOT, Math.min(MOST_A_SLOT, MOST_POINTS / this.#points.size / CURVES.length));
      if (points.length > most) {
        const newest = points.length - 1;
        this.#points.set(
          slot.slot,
          points.filter((_, i) => i % 2 === 0 || i === newest),
        );
      }
    }
  }

  clear(): void {
    this.#points.clear();
  }

  of(slot: string): Curves | null {
    const points = this.#points.get(slot);
    if (points === undefined) return null;
    return Object.fromEntries(
      CURVES.map((name, i) => [name, points.map((point) => (Number.isNaN(point[i]!) ? null : point[i]!))]),
    );
  }
}
