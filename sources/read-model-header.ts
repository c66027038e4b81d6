// One model's header and fingerprint as effects, read on the calling thread: for programs that look at a few models. A plan
// leaves both to header workers (header-workers.ts), since a header of a million tensors takes seconds to parse.
import { Effect } from 'effect';
import { SourceMalformed, SourceUnavailable } from './errors.ts';
import { type Fingerprint, fingerprintNow, pagesOf } from './fingerprint.ts';
import type { ModelHeader, ModelLocation } from './model.ts';
import { readHeaderNow } from './model-header.ts';

/** Fails with what a source is allowed to fail with; anything else that is thrown is a bug, and a defect. */
const fromSource = <A>(run: () => A): Effect.Effect<A, SourceMalformed | SourceUnavailable> =>
  Effect.try({ try: run, catch: (cause) => cause }).pipe(
    Effect.catch((cause) =>
      cause instanceof SourceMalformed || cause instanceof SourceUnavailable ? Effect.fail(cause) : Effect.die(cause),
    ),
  );

/**
 * Reads and checks the header of a model, or the index and the headers of all shards.
 *
 * @returns files in the byte order of their names, tensors in storage order
 */
export const readModelHeader = (
  location: ModelLocation,
): Effect.Effect<ModelHeader, SourceMalformed | SourceUnavailable> => fromSource(() => readHeaderNow(location));

/** Tells models of one shape apart without reading them, see fingerprint.ts. */
export const fingerprint = (
  header: ModelHeader,
  usedTensorNames: Iterable<string>,
): Effect.Effect<Fingerprint, SourceMalformed | SourceUnavailable> =>
  fromSource(() => fingerprintNow({ ...header, pages: pagesOf(header, usedTensorNames) }));
