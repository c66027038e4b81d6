// How fast a run reads, over its last half minute: the mean over the whole run hides that it has become slow.
import type { RunProgress } from '../../pipeline/telemetry.ts';

const WINDOW_S = 30;

export interface Rates {
  readonly bytes: number;
  /** NaN where that is not known: models are counted anew in every group. */
  readonly models: number;
}

export class RateMeter {
  #marks: { readonly seconds: number; readonly bytes: number; readonly models: number }[] = [];

  /** Takes note of how far the run is; rates a second, or null before anything was read. */
  measure(progress: RunProgress | null): Rates | null {
    if (progress === null || progress.seconds <= 0) return null;
    const { seconds, bytesRead, modelsSeen } = progress;
    const last = this.#marks.at(-1);
    // A resumed run, or the next group, counts its models anew.
    if (last !== undefined && (last.seconds > seconds || last.models > modelsSeen)) this.#marks = [];
    if (last === undefined || last.seconds < seconds || this.#marks.length === 0)
      this.#marks.push({ seconds, bytes: bytesRead, models: modelsSeen });
    while (this.#marks.length > 2 && this.#marks[1]!.seconds < seconds - WINDOW_S) this.#marks.shift();
    const first = this.#marks[0]!;
    if (seconds - first.seconds < 1)
      return { bytes: bytesRead / seconds, models: progress.group === 0 ? modelsSeen / seconds : Number.NaN };
    return {
      bytes: (bytesRead - first.bytes) / (seconds - first.seconds),
      models: (modelsSeen - first.models) / (seconds - first.seconds),
    };
  }
}
