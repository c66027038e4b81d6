// Turns the repetitions into what is printed and kept: seconds, and ratios within each repetition.
import { DATASET_BYTES } from './dataset.mjs';
import { spread, worstDifference } from './statistics.mjs';

/** Seconds below which no program of these flops over these bytes can stay on this machine. */
function limitSeconds(limit, flops) {
  return Math.max(DATASET_BYTES / limit.read_bytes_per_s, flops / limit.gemm_flops_per_s);
}

function column(repetitions, contender, value) {
  return spread(repetitions.map((rep) => (rep[contender] ? value(rep[contender], rep) : Number.NaN)));
}

export function secondsOf(repetitions) {
  const rows = [];
  for (const device of ['blas', 'tfjs']) {
    rows.push([`weightspan ${device}: fit`, column(repetitions, device, (it) => it.fit_s)]);
    rows.push([`weightspan ${device}: to the last table`, column(repetitions, device, (it) => it.tables_s)]);
    rows.push([`weightspan ${device}: whole command`, column(repetitions, device, (it) => it.command_s)]);
  }
  rows.push(['scikit-learn IncrementalPCA: fit', column(repetitions, 'sklearn', (it) => it.fit_s)]);
  rows.push(['NumPy in memory: Gram, eigh, basis', column(repetitions, 'numpy', (it) => it.arithmetic_s)]);
  rows.push(['NumPy in memory: centring', column(repetitions, 'numpy', (it) => it.centre_s)]);
  return rows.filter(([, seconds]) => seconds);
}

export function ratiosOf(repetitions) {
  const rows = [];
  for (const device of ['blas', 'tfjs']) {
    const ratio = (value) => column(repetitions, device, value);
    rows.push([`${device}: fit, against scikit-learn's fit`, ratio((it, { sklearn }) => sklearn?.fit_s / it.fit_s)]);
    rows.push([
      `${device}: to the last table, against scikit-learn's fit`,
      ratio((it, { sklearn }) => sklearn?.fit_s / it.tables_s),
    ]);
    rows.push([
      `${device}: fit, against NumPy's Gram, eigh, basis`,
      ratio((it, { numpy }) => numpy?.arithmetic_s / it.fit_s),
    ]);
    rows.push([
      `${device}: fit, against the same with centring`,
      ratio((it, { numpy }) => (numpy?.arithmetic_s + numpy?.centre_s) / it.fit_s),
    ]);
    rows.push([
      `${device}: fit, share of the machine's limit`,
      ratio((it, { limit }) => limit && limitSeconds(limit, it.flops) / it.fit_s),
    ]);
    rows.push([
      `${device}: basis files, share of the raw synced write rate`,
      ratio((it, { limit }) => it.basis_bytes / it.write_s / limit?.write_bytes_per_s),
    ]);
  }
  return rows.filter(([, ratio]) => ratio);
}

/** Largest relative differences of the first ten singular values, over all repetitions. */
export function differencesOf(repetitions, exact) {
  const all = (name) => repetitions.flatMap((rep) => (rep[name] ? [rep[name].singular_values] : []));
  const worst = (found, expected) => Math.max(...found.map((values) => worstDifference(values, expected)));
  const [sklearn] = all('sklearn');
  const rows = [];
  for (const name of ['blas', 'tfjs', 'sklearn', 'numpy']) {
    if (exact && all(name).length) rows.push([`${name} against exact`, worst(all(name), exact)]);
    if (sklearn && all(name).length && name !== 'sklearn')
      rows.push([`${name} against scikit-learn`, worst(all(name), sklearn)]);
  }
  return rows;
}

export function printSpread(title, rows, digits) {
  console.log(`\n${title.padEnd(58)}${'min'.padStart(9)}${'median'.padStart(9)}${'max'.padStart(9)}`);
  for (const [name, { min, median, max }] of rows) {
    const cells = [min, median, max].map((value) => value.toFixed(digits).padStart(9));
    console.log(`  ${name.padEnd(56)}${cells.join('')}`);
  }
}
