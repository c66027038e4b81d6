// The page of `run --watch`: served by a thread of its own for as long as the run goes on.
import { Effect, Option } from 'effect';
import { ConfigInvalid } from '../../configs/errors.ts';
import { startWatchThread } from '../../watch/server/watch-thread.ts';
import type { Telemetry } from '../telemetry.ts';
import { cannotListen } from './watch.ts';
import { type WatchFlags, watchOptions } from './watch-options.ts';

/** Starts the page where it is wanted; resolves with what ends it. */
export const watchBeside = Effect.fn('watchBeside')(function* (
  out: string | null,
  isWanted: boolean,
  flags: WatchFlags,
  telemetry: Telemetry,
) {
  if (!isWanted) {
    const useless = (['port', 'host', 'token'] as const).filter((name) => Option.isSome(flags[name]));
    if (useless.length === 0) return Effect.void;
    return yield* new ConfigInvalid({ issues: useless.map((name) => `${name}: it is of the page; give --watch too`) });
  }
  const options = yield* watchOptions(out ?? '', flags);
  const page = yield* Effect.tryPromise({
    try: () =>
      startWatchThread(options, ({ message }) =>
        telemetry({ type: 'notice', text: `the page is gone: ${message}; the run goes on` }),
      ),
    catch: (cause) => cannotListen(options.port, cause),
  });
  process.stderr.write(`weightspan: the run can be watched at ${page.url}\n`);
  return Effect.promise(() => page.close());
});
