// Headers and fingerprints read by worker threads, against the same read on this thread. The built package is tested, since
// Node 20 cannot start a worker from TypeScript.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { fingerprintNow, pagesOf } from '../../sources/fingerprint.ts';
import type { HeaderWorkersOptions, HeaderWorkers as Workers } from '../../sources/header-workers.ts';
import type { ModelHeader, ModelLocation } from '../../sources/model.ts';
import { readHeaderNow } from '../../sources/model-header.ts';
import { temporaryFolder } from './temporary-folder.ts';
import { withHeader, writeSafetensors, writeSharded } from './write-safetensors.ts';

const built = new URL('../../dist/sources/header-workers.js', import.meta.url).href;

const open = async (options?: HeaderWorkersOptions): Promise<Workers> => {
  const { HeaderWorkers } = (await import(built)) as { HeaderWorkers: typeof Workers };
  const workers = new HeaderWorkers(options);
  onTestFinished(() => workers.close());
  return workers;
};

const file = (entry: string): ModelLocation => ({ name: 'm', source: 'm', path: entry, layout: 'file', entry });

const now = <A>(call: () => A): A | Error => {
  try {
    return call();
  } catch (error) {
    return error as Error;
  }
};

/** Errors of the built package are of classes of their own. */
const comparable = (results: readonly unknown[]): readonly unknown[] =>
  results.map((result) => (result instanceof Error ? { ...result, name: result.name, text: result.message } : result));

/** `count` tensors without data. */
const emptyTensors = (count: number): Uint8Array => {
  const members = Array.from(
    { length: count },
    (_, i) => `"tensor.${i}":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}`,
  );
  return withHeader(`{${members.join(',')}}`);
};

test('are the same as on this thread, good and bad, in the order asked for', async () => {
  const folder = temporaryFolder();
  const locations = Array.from({ length: 300 }, (_, i): ModelLocation => {
    const path = join(folder, `${i}.safetensors`);
    if (i % 10 === 1) writeFileSync(path, '<html>');
    else if (i % 10 === 2) return file(join(folder, 'gone', `${i}`));
    else if (i % 10 === 3) writeFileSync(path, withHeader('{"\u0007":{"dtype":"F32"}}'));
    else if (i % 10 === 4) {
      mkdirSync(path);
      writeSharded(
        path,
        ['a', 'b'].map((name) => [{ name, dtype: 'F32', shape: [1], data: Float32Array.of(i) }]),
      );
      return { ...file(join(path, 'model.safetensors.index.json')), path, layout: 'sharded' };
    } else writeSafetensors(path, [{ name: 'a', dtype: 'F32', shape: [2], data: Float32Array.of(i, i % 4) }]);
    return file(path);
  });
  const workers = await open();
  const headers = await workers.readHeaders(locations);
  expect(comparable(headers)).toEqual(comparable(locations.map((location) => now(() => readHeaderNow(location)))));

  const good = headers.filter((header): header is ModelHeader => !(header instanceof Error));
  expect(good).toHaveLength(210);
  const tasks = good.map((header) => ({ ...header, pages: pagesOf(header, ['a']) }));
  expect(await workers.fingerprints(tasks)).toEqual(tasks.map(fingerprintNow));
  expect(await workers.readHeaders([])).toEqual([]);
});

test('models with the same header share their tensors', async () => {
  const folder = temporaryFolder();
  const paths = [1, 2, 3].map((i) => join(folder, `${i}.safetensors`));
  for (const [i, path] of paths.entries()) {
    writeSafetensors(path, [{ name: i === 2 ? 'b' : 'a', dtype: 'F32', shape: [1], data: Float32Array.of(i) }]);
  }
  const workers = await open();
  const [x, y, z] = (await workers.readHeaders(paths.map(file))) as readonly ModelHeader[];
  expect(x!.tensors).toBe(y!.tensors);
  expect([...z!.tensors.keys()]).toEqual(['b']);
});

test('a header that the memory does not hold names its file, and its neighbours are read', async () => {
  const folder = temporaryFolder();
  const locations = Array.from({ length: 8 }, (_, i) => {
    const path = join(folder, `${i}.safetensors`);
    writeFileSync(path, emptyTensors(i === 5 ? 300_000 : 3 + i));
    return file(path);
  });
  const workers = await open({ heap: 24 });
  const headers = await workers.readHeaders(locations);
  expect(headers.map((header) => (header instanceof Error ? header.name : header.tensors.size))).toEqual([
    3,
    4,
    5,
    6,
    7,
    'SourceMalformed',
    9,
    10,
  ]);
  expect((headers[5] as Error).message).toMatch(
    /5\.safetensors: .*did not survive.*expected.*24 MiB.*\[header-memory\]/,
  );
});

test('a large header leaves this thread its turns', async () => {
  const path = join(temporaryFolder(), 'm.safetensors');
  writeFileSync(path, emptyTensors(100_000));
  const workers = await open();
  let turns = 0;
  let timer = setImmediate(function turn() {
    turns++;
    timer = setImmediate(turn);
  });
  const [header] = await workers.readHeaders([file(path)]);
  clearImmediate(timer);
  expect((header as ModelHeader).tensors.size).toBe(100_000);
  // At least one between any two parts of 4,096 tensors.
  expect(turns).toBeGreaterThan(24);
});
