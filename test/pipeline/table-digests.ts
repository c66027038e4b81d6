// What a run's results are compared by, to the last bit.
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** The sha256 of every file of a run that results are read from, by its path in the run; timings are none. */
export const tableDigests = (run: string): Record<string, string> =>
  Object.fromEntries(
    readdirSync(run, { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.parquet') && file !== 'timings.parquet')
      .sort()
      .map((file) => [
        file,
        createHash('sha256')
          .update(readFileSync(join(run, file)))
          .digest('hex'),
      ]),
  );
