// Reads a Parquet table of a run into row objects, with hyparquet: nothing of weightspan is needed to read a run.
import { asyncBufferFromFile, parquetReadObjects } from 'hyparquet';

export async function readTable(path) {
  return parquetReadObjects({ file: await asyncBufferFromFile(path) });
}

/** The eigenvalues of every slot of a run in a mode, largest first, by the slot's name. */
export async function readSpectra(run, wanted = 'models') {
  const names = new Map((await readTable(`${run}/slots.parquet`)).map((row) => [row.slot_id, row.name]));
  const spectra = new Map();
  for (const { slot_id, mode, component, eigenvalue } of await readTable(`${run}/spectrum.parquet`)) {
    if (mode !== wanted) continue;
    const name = names.get(slot_id);
    if (!spectra.has(name)) spectra.set(name, []);
    spectra.get(name)[component] = eigenvalue;
  }
  return spectra;
}
