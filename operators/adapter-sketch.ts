// What is remembered of an adapter to tell whether it started where another did: its raw A factors, pooled over modules, in
// 2,048 floats whose inner products are those of the factors up to 1 / sqrt(2,048) of the norms (a count sketch). A feature's
// place and sign follow from the module's name and the feature's index, never from the model.
// Cost: about 10 ns a feature. Memory: 8 KiB a model.
// Source: Charikar, Chen & Farach-Colton 2002; Weinberger et al. 2009 (feature hashing), sec. 2.

/** Numbers of a sketch. */
export const SKETCH_SIZE = 2048;

export interface AdapterSketch {
  /** SKETCH_SIZE numbers. */
  readonly sums: Float32Array;
  /** Stands for the modules and their ranks, in any order: where it differs, starts cannot be compared. 0: no module yet. */
  readonly signature: number;
}

export const emptySketch: AdapterSketch = { sums: new Float32Array(SKETCH_SIZE), signature: 0 };

/**
 * Takes in a module: A as stored, rank x in, neither scaled nor canonical.
 * @throws RangeError where A is not finite, or not of this rank
 */
export const addModule = (
  { sums, signature }: AdapterSketch,
  module: string,
  a: Float32Array,
  rank: number,
): AdapterSketch => {
  if (rank < 1 || a.length === 0 || a.length % rank !== 0)
    throw new RangeError(`${module}: expected an A of rank ${rank}, found ${a.length} numbers`);
  const added = new Float64Array(SKETCH_SIZE);
  const key = hashOf(module, 0x811c9dc5);
  for (let i = 0; i < a.length; i++) {
    const mixed = mix((key + Math.imul(i, 0x9e3779b9)) | 0);
    const at = mixed & (SKETCH_SIZE - 1);
    added[at] = added[at]! + (mixed < 0 ? -a[i]! : a[i]!);
  }
  const next = sums.map((value, at) => value + added[at]!);
  if (!next.every(Number.isFinite)) throw new RangeError(`${module}: A has a number that is not finite`);
  const own = `${module} ${rank} ${a.length}`;
  const wide = (hashOf(own, 0x811c9dc5) >>> 0) * 2 ** 20 + (hashOf(own, 0x2545f491) >>> 12);
  return { sums: next, signature: (signature + wide) % 2 ** 52 };
};

/** FNV-1a of the UTF-16 units, finished by `mix`. */
const hashOf = (text: string, seed: number): number => {
  let hash = seed | 0;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return mix(hash);
};

/** The finaliser of MurmurHash3: every bit of the input moves half of the output's. */
const mix = (value: number): number => {
  let h = value;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
};
