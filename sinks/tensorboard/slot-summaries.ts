// From a run's events to TensorBoard's: after every block one point a metric and slot, and the spectrum as a histogram,
// against the models seen. Field numbers are those of TensorFlow's event.proto and summary.proto. Cost: some 700 bytes a
// slot and block.
import type { LoggedEvent, SlotProgress, SlotSummary } from '../../pipeline/telemetry.ts';
import { slotTag } from '../slot-tag.ts';
import { ProtoMessage } from './proto-message.ts';

type Numbers = Pick<
  SlotProgress & SlotSummary,
  'evr_1' | 'evr_4' | 'evr_16' | 'evr_k' | 'captured' | 'mean_only' | 'components_90' | 'scree'
> & { readonly drift: number | null };

interface Scalar {
  readonly tag: string;
  readonly description: string;
  readonly read: (of: Numbers) => number | null;
}

const evr = (cut: 1 | 4 | 16 | 'k'): Scalar => ({
  tag: `evr@${cut}`,
  description: `Share of the total variance that the first ${cut === 1 ? 'direction explains' : `${cut} directions explain`}, in sample. Compare it with k/(N - 1), what k directions explain without any structure.`,
  read: (of) => of[`evr_${cut}`],
});

const SCALARS: readonly Scalar[] = [
  evr(1),
  evr(4),
  evr(16),
  evr('k'),
  {
    tag: 'drift',
    description: 'Largest principal angle between the first 4 directions before and after the block, in degrees.',
    read: ({ drift }) => drift,
  },
  {
    tag: 'captured',
    description:
      "Share of the block's models' distance from the mean that lay in the directions as they were before those models were folded.",
    read: ({ captured }) => captured,
  },
  {
    tag: 'mean_only',
    description: 'Share of the sum of squares that the mean alone accounts for.',
    read: ({ mean_only }) => mean_only,
  },
  {
    tag: 'components@90',
    description: 'Directions that reach 90% of the variance. No point where more than the kept ones would be needed.',
    read: ({ components_90 }) => components_90,
  },
];

const SPECTRUM =
  'The spectrum: component j stands at j, and its bar is the share of the variance that it explains. The first 16.';

/** A record holds the slots of one event, but no more than these: readers take a record as a whole. */
const MOST_SLOTS = 512;

/** Component j from j - 0.5 to j + 0.5, as high as its share. */
const histogram = (shares: readonly number[]): Uint8Array => {
  const sum = (of: (share: number, at: number) => number): number =>
    shares.reduce((all, share, j) => all + of(share, j + 1), 0);
  return new ProtoMessage()
    .double(1, 0.5)
    .double(2, shares.length + 0.5)
    .double(
      3,
      sum((share) => share),
    )
    .double(
      4,
      sum((share, at) => share * at),
    )
    .double(
      5,
      sum((share, at) => share * at * at),
    )
    .doubles(
      6,
      shares.map((_, j) => j + 1.5),
    )
    .doubles(7, shares).written;
};

const secondsOf = ({ time }: LoggedEvent): number => Date.parse(time) / 1e3;

const eventOf = (seconds: number): ProtoMessage => new ProtoMessage().double(1, seconds);

/** The first record of every file. */
export const fileVersion = (seconds: number): Uint8Array => eventOf(seconds).bytes(3, 'brain.Event:2').written;

/** A session begins: of what stands in earlier files, TensorBoard drops everything from step 0 on. */
export const sessionStart = (seconds: number): Uint8Array =>
  eventOf(seconds).bytes(7, new ProtoMessage().integer(1, 1).written).written;

export class SlotSummaries {
  /** The newest step of each slot and mode. */
  readonly #steps = new Map<string, number>();
  readonly #tags = new Map<string, string>();
  readonly #described = new Set<string>();

  /** The messages that an event gives, each for a record of its own. */
  of(event: LoggedEvent): readonly Uint8Array[] {
    if (event.type === 'block') {
      const { modelsSeen, slots } = event;
      const isBefore = slots.some(({ slot }) => modelsSeen < this.#stepOf('models', slot));
      // A run that was extended and kept no state reads all models anew.
      const anew = isBefore ? [sessionStart(secondsOf(event))] : [];
      if (isBefore) this.#steps.clear();
      // A second pass over the weights ends where the first one did.
      const isSecond = (slot: SlotProgress): boolean => modelsSeen === this.#stepOf('models', slot.slot);
      return [...anew, ...this.#records(event, modelsSeen, slots, (slot) => (isSecond(slot) ? 'pass 2' : 'models'))];
    }
    if (event.type !== 'done') return [];
    // What blocks have told stands already: the end pools over many of them.
    const untold = event.slots
      .filter(({ slot, mode, models }) => this.#stepOf(mode, slot) < models)
      .map((summary) => ({ ...summary, drift: null }));
    return [...new Set(untold.map(({ models }) => models))].flatMap((step) =>
      this.#records(
        event,
        step,
        untold.filter(({ models }) => models === step),
        ({ mode }) => mode,
      ),
    );
  }

  #stepOf(mode: string, slot: string): number {
    return this.#steps.get(`${mode} ${slot}`) ?? -1;
  }

  #records<S extends Numbers & { readonly slot: string }>(
    event: LoggedEvent,
    step: number,
    slots: readonly S[],
    modeOf: (slot: S) => string,
  ): readonly Uint8Array[] {
    const records: Uint8Array[] = [];
    for (let from = 0; from < slots.length; from += MOST_SLOTS) {
      const summary = new ProtoMessage();
      for (const slot of slots.slice(from, from + MOST_SLOTS)) this.#add(summary, slot, modeOf(slot), step);
      if (summary.written.length > 0)
        records.push(eventOf(secondsOf(event)).integer(2, step).bytes(5, summary.written).written);
    }
    return records;
  }

  #add(summary: ProtoMessage, slot: Numbers & { readonly slot: string }, mode: string, step: number): void {
    this.#steps.set(`${mode} ${slot.slot}`, step);
    const group = mode === 'models' ? '' : ` ${mode}`;
    for (const { tag, description, read } of SCALARS) {
      const value = read(slot) ?? Number.NaN;
      if (Number.isFinite(value))
        summary.bytes(1, this.#value(`${tag}${group}/`, slot.slot, description).float(2, value).written);
    }
    const shares = slot.scree ?? [];
    if (shares.some((share) => share > 0))
      summary.bytes(1, this.#value(`spectrum${group}/`, slot.slot, SPECTRUM).bytes(5, histogram(shares)).written);
  }

  /** With what it means, the first time. */
  #value(metric: string, slot: string, description: string): ProtoMessage {
    const tag = metric + this.#tagOf(slot);
    const value = new ProtoMessage().bytes(1, tag);
    if (this.#described.has(tag)) return value;
    this.#described.add(tag);
    return value.bytes(9, new ProtoMessage().bytes(3, description).written);
  }

  #tagOf(slot: string): string {
    let tag = this.#tags.get(slot);
    if (tag === undefined) {
      tag = slotTag(slot);
      this.#tags.set(slot, tag);
    }
    return tag;
  }
}
