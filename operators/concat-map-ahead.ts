// The data lane's step: like concatMap, but the next items are read while one is used. RxJS operators push without
// limit, so the limit is the concurrency of one mergeMap, and what an item holds lives only inside its inner Observable:
// take a buffer, read, wait for the turn, use, give the buffer back. In order, and never more than `ahead` live.
import {
  BehaviorSubject,
  concatMap,
  defer,
  filter,
  finalize,
  from,
  mergeMap,
  type ObservableInput,
  type OperatorFunction,
  take,
  tap,
} from 'rxjs';

export interface AheadSteps<T, Held, Read, R> {
  /** Items live at once: the one in use and those read ahead. At least 1. */
  readonly ahead: number;
  readonly acquire: (item: T) => Held;
  /** May run for several items at once. */
  readonly read: (item: T, held: Held) => Promise<Read>;
  /** Runs for one item at a time, in the source's order. */
  readonly use: (item: T, read: Read) => ObservableInput<R>;
  /** Called once for every acquire, after the read has settled, also on error and unsubscription. */
  readonly release: (held: Held) => void;
}

export const concatMapAhead =
  <T, Held, Read, R>(steps: AheadSteps<T, Held, Read, R>): OperatorFunction<T, R> =>
  (source) =>
    defer(() => {
      const turn = new BehaviorSubject(0);
      return source.pipe(
        mergeMap(
          (item, index) =>
            defer(() => {
              const held = steps.acquire(item);
              // An async step, so that a read that throws at once is a failed read: what was taken is given back.
              const reading = (async () => steps.read(item, held))();
              let settled = false;
              const settling = reading.then(
                () => {
                  settled = true;
                },
                () => {
                  settled = true;
                },
              );
              // At once where it can be: the next item takes its turn right after, and must find the place free.
              const release = (): void => {
                if (settled) steps.release(held);
                else void settling.then(() => steps.release(held));
              };
              return from(reading).pipe(
                concatMap((read) =>
                  turn.pipe(
                    filter((now) => now === index),
                    take(1),
                    concatMap(() => steps.use(item, read)),
                  ),
                ),
                tap({ complete: () => turn.next(index + 1) }),
                finalize(release),
              );
            }),
          steps.ahead,
        ),
      );
    });
