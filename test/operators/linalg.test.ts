// The small solvers against identities, against LAPACK where there is one, and against angles known by construction.
import { describe, expect, it } from 'vitest';
import { findBlas } from '../../operators/devices/find-blas.ts';
import { bindEigenSolver } from '../../operators/devices/lapack-eigen.ts';
import { interpolate } from '../../operators/linalg/interpolative.ts';
import { principalAngles } from '../../operators/linalg/principal-angles.ts';
import { type EigenSolver, jsEigenSolver } from '../../operators/linalg/symmetric-eigen.ts';
import { requirePart } from '../requires.ts';

/** Values in [-1, 1) that look random, the same each time. */
const noise = (seed: number) => {
  let state = seed >>> 0;
  return (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  };
};

const symmetric = (n: number, seed: number): Float64Array => {
  const next = noise(seed);
  const a = new Float64Array(n * n);
  for (let i = 0; i < n; i++) for (let j = 0; j <= i; j++) a[i * n + j] = a[j * n + i] = next();
  return a;
};

/** A Gram matrix of rank `rank`: n − rank eigenvalues are 0. */
const gram = (n: number, rank: number, seed: number): Float64Array => {
  const next = noise(seed);
  const x = Float64Array.from({ length: n * rank }, next);
  const a = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) for (let k = 0; k < rank; k++) a[i * n + j]! += x[i * rank + k]! * x[j * rank + k]!;
  }
  return a;
};

const diagonal = (...values: number[]): Float64Array => {
  const a = new Float64Array(values.length ** 2);
  for (const [i, value] of values.entries()) a[i * values.length + i] = value;
  return a;
};

const largest = (values: ArrayLike<number>): number => Math.max(0, ...Array.from(values, Math.abs));

/** Reconstruction, orthonormality, order; the input stays as it was. */
const expectDecomposed = (solve: EigenSolver, a: Float64Array, n: number): void => {
  const before = a.slice();
  const { values, vectors } = solve(a, n);
  expect(a).toEqual(before);
  expect([values.length, vectors.length]).toEqual([n, n * n]);
  const scale = Math.max(largest(a) * n, Number.MIN_VALUE);
  for (let j = 1; j < n; j++) expect(values[j]!).toBeLessThanOrEqual(values[j - 1]!);
  let worstSum = 0;
  let worstDot = 0;
  for (let p = 0; p < n; p++) {
    for (let q = 0; q < n; q++) {
      let sum = 0;
      let dot = p === q ? -1 : 0;
      for (let j = 0; j < n; j++) {
        sum += values[j]! * vectors[j * n + p]! * vectors[j * n + q]!;
        dot += vectors[p * n + j]! * vectors[q * n + j]!;
      }
      worstSum = Math.max(worstSum, Math.abs(sum - a[p * n + q]!));
      worstDot = Math.max(worstDot, Math.abs(dot));
    }
  }
  expect(worstSum / scale).toBeLessThan(1e-13);
  expect(worstDot).toBeLessThan(1e-12);
};

const cases: readonly (readonly [string, Float64Array, number])[] = [
  ['1 x 1', diagonal(-3), 1],
  ['2 x 2', Float64Array.of(2, 1, 1, 2), 2],
  ['zero', new Float64Array(25), 5],
  ['identity', diagonal(1, 1, 1, 1), 4],
  ['a double eigenvalue', diagonal(2, 5, 2, -1), 4],
  ['tiny', diagonal(1e-200, 3e-200, 2e-200), 3],
  ['random 7', symmetric(7, 1), 7],
  ['random 97', symmetric(97, 2), 97],
  ['rank 3 of 40', gram(40, 3, 3), 40],
  ['rank 12 of 12', gram(12, 12, 4), 12],
];

const blas = findBlas();
const hasLapack = requirePart('blas', blas?.solve != null);
if (!hasLapack) console.log('*** no BLAS with LAPACK on this machine: its eigensolver is NOT TESTED ***');

describe('jsEigenSolver', () => {
  it.each(cases)('%s: A = V Λ Vᵀ, V Vᵀ = 1, descending', (_, a, n) => expectDecomposed(jsEigenSolver, a, n));

  it('knows small matrices', () => {
    expect([...jsEigenSolver(diagonal(-3), 1).values]).toEqual([-3]);
    expect([...jsEigenSolver(new Float64Array(9), 3).values]).toEqual([0, 0, 0]);
    const { values, vectors } = jsEigenSolver(Float64Array.of(2, 1, 1, 2), 2);
    expect(values[0]).toBeCloseTo(3, 14);
    expect(values[1]).toBeCloseTo(1, 14);
    expect(Math.abs(vectors[0]!)).toBeCloseTo(Math.SQRT1_2, 14);
    expect(vectors[0]! * vectors[1]!).toBeCloseTo(0.5, 14);
    expect(vectors[2]! * vectors[3]!).toBeCloseTo(-0.5, 14);
  });

  it('reads a view that does not start its buffer', () => {
    const backing = Float64Array.of(99, 99, 4, 0, 0, 9, 99);
    expect([...jsEigenSolver(backing.subarray(2, 6), 2).values]).toEqual([9, 4]);
  });

  it('gives the same bits twice', () => {
    const a = gram(33, 20, 8);
    expect(jsEigenSolver(a, 33)).toEqual(jsEigenSolver(a, 33));
  });
});

describe.runIf(hasLapack)('LAPACK', () => {
  const solve = blas?.solve as EigenSolver;

  it.each(cases)('%s: A = V Λ Vᵀ, V Vᵀ = 1, descending', (_, a, n) => expectDecomposed(solve, a, n));

  it.each(cases)('%s: the eigenvalues of both solvers agree', (_, a, n) => {
    const js = jsEigenSolver(a, n).values;
    const lapack = solve(a, n).values;
    const scale = Math.max(largest(js), Number.MIN_VALUE);
    expect(largest(js.map((value, j) => value - lapack[j]!)) / scale).toBeLessThan(1e-13);
  });

  it('gives the same bits whatever was solved before, in memory that is kept or not', () => {
    const first = solve(gram(40, 20, 8), 40);
    const before = [first.values.slice(), first.vectors.slice()];
    for (const n of [520, 7, 60, 7]) solve(gram(n, 20, n), n);
    const again = solve(gram(40, 20, 8), 40);
    expect([again.values, again.vectors]).toEqual(before);
    expect([first.values, first.vectors]).toEqual(before);
  });

  it('the eigenvectors agree up to sign where the eigenvalues are apart', () => {
    const n = 9;
    const a = symmetric(n, 5);
    const js = jsEigenSolver(a, n).vectors;
    const lapack = solve(a, n).vectors;
    for (let j = 0; j < n; j++) {
      let dot = 0;
      for (let i = 0; i < n; i++) dot += js[j * n + i]! * lapack[j * n + i]!;
      expect(Math.abs(dot)).toBeCloseTo(1, 12);
    }
  });
});

/** Of 400 rows and more few vectors come from the tridiagonal form (operators/devices/lapack-eigen.ts). */
const large: readonly (readonly [string, Float64Array, number])[] = [
  ['zero', new Float64Array(400 ** 2), 400],
  ['identity', diagonal(...new Array<number>(400).fill(1)), 400],
  ['a Gram of full rank', gram(400, 401, 6), 400],
  ['rank 5 of 450', gram(450, 5, 7), 450],
  ['two eigenvalues, 200 times each', diagonal(...Array.from({ length: 400 }, (_, i) => (i % 2 === 0 ? 3 : 1))), 400],
  ['falling by 16 orders of magnitude', diagonal(...Array.from({ length: 400 }, (_, i) => 10 ** (-i / 25))), 400],
  ['positive and negative', symmetric(430, 9), 430],
];

describe.each([['js', jsEigenSolver] as const, ...(hasLapack ? [['lapack', blas!.solve!] as const] : [])])(
  '%s: the first vectors',
  (name, solve) => {
    it.each([...cases, ...(name === 'js' ? [] : large)])('%s', (_, a, n) => {
      const before = a.slice();
      const all = solve(a, n);
      const scale = Math.max(largest(all.values), Number.MIN_VALUE);
      for (const wanted of [0, 1, Math.min(3, n), Math.min(33, n), n + 2]) {
        const { values, vectors } = solve(a, n, wanted);
        const count = Math.min(wanted, n);
        expect(a).toEqual(before);
        expect([values.length, vectors.length]).toEqual([n, count * n]);
        // Rounding of n sums of n products; both ways find the same values up to that.
        expect(largest(values.map((value, j) => value - all.values[j]!)) / scale).toBeLessThan(1e-13);
        for (let j = 0; j < count; j++) {
          const v = vectors.subarray(j * n, (j + 1) * n);
          let residual2 = 0;
          for (let i = 0; i < n; i++) {
            let sum = -values[j]! * v[i]!;
            for (let l = 0; l < n; l++) sum += a[i * n + l]! * v[l]!;
            residual2 += sum * sum;
          }
          expect(Math.sqrt(residual2) / scale).toBeLessThan(1e-12);
          for (let i = 0; i <= j; i++) {
            let dot = 0;
            for (let l = 0; l < n; l++) dot += v[l]! * vectors[i * n + l]!;
            expect(Math.abs(dot - (i === j ? 1 : 0))).toBeLessThan(1e-11);
          }
        }
      }
    });
  },
);

describe.runIf(hasLapack)('LAPACK, whether all vectors are wanted or few', () => {
  const solve = blas?.solve as EigenSolver;

  it('gives the same bits twice', () => {
    const a = gram(400, 100, 8);
    expect(solve(a, 400, 32)).toEqual(solve(a, 400, 32));
  });

  it.each([
    [8, 8],
    [60, 3],
    [400, 400],
    [400, 32],
  ])('refuses what is not finite: %i rows, %i vectors', (n, wanted) => {
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const a = symmetric(n, 4);
      a[3 * n + 2] = bad;
      a[2 * n + 3] = bad;
      expect(() => solve(a, n, wanted)).toThrow(
        new RegExp(`dsyevd of ${n} x ${n} failed|${n} x ${n} that are not finite`),
      );
    }
  });
});

describe('few vectors that LAPACK does not find', () => {
  const n = 400;
  /** A library whose dsyevd finds 1 … n and unit vectors, and whose other routines do nothing but what is given. */
  const solverOf = (others: Readonly<Record<string, (...args: never[]) => void>>, missing: readonly string[] = []) => {
    const called: string[] = [];
    const dsyevd = (
      _jobz: string,
      _uplo: string,
      _n: unknown,
      a: Float64Array,
      _lda: unknown,
      w: Float64Array,
    ): void => {
      for (let i = 0; i < n; i++) w[i] = i + 1;
      a.fill(0);
      for (let i = 0; i < n; i++) a[i * n + i] = 1;
    };
    const solve = bindEigenSolver(
      (signature) => {
        const name = /void (\w+)_\(/.exec(signature)![1]!;
        if (missing.includes(name)) return null;
        return (...args) => {
          called.push(name);
          const routines: Readonly<Record<string, (...args: never[]) => void>> = { dsyevd, ...others };
          routines[name]?.(...(args as never[]));
        };
      },
      { prefix: '', suffix: '', integer: 'int32' },
    )!;
    return { solve, called };
  };
  /** Sets one of a routine's integers. */
  const setting =
    (at: number, value: number) =>
    (...args: unknown[]): void =>
      void (args[at] as Int32Array).fill(value);
  const dstemr = setting(9, 3);

  it.each([
    ['a routine fails', { dstemr, dormtr: setting(12, 1) }, []],
    ['fewer are found', {}, []],
    ['values are not finite', { dstemr, dsterf: (_n: unknown, d: Float64Array) => void d.fill(Number.NaN) }, []],
    ['there is no dstemr', {}, ['dstemr']],
  ] as const)('%s: all of them are found', (_, others, missing) => {
    const { solve, called } = solverOf(others as never, missing);
    const { values, vectors } = solve(new Float64Array(n * n), n, 3);
    expect(called.at(-1)).toBe('dsyevd');
    expect([values[0], values[n - 1], vectors.length]).toEqual([n, 1, 3 * n]);
    expect(vectors[n - 1]).toBe(1);
  });

  it('where all goes well dsyevd is not asked', () => {
    const { solve, called } = solverOf({ dstemr } as never);
    expect(solve(new Float64Array(n * n), n, 3).vectors).toHaveLength(3 * n);
    expect(called).toEqual(['dsytrd', 'dsterf', 'dstemr', 'dormtr']);
    called.length = 0;
    solve(new Float64Array(n * n), n, 34);
    expect(called).toEqual(['dsyevd']);
  });
});

/** Inner products of e_0 … e_{j-1} with vectors turned out of their span by the angles, in degrees. */
const turned = (...degrees: number[]): Float64Array =>
  diagonal(...degrees.map((angle) => Math.cos((angle * Math.PI) / 180)));

describe.each([['js', jsEigenSolver] as const, ...(hasLapack ? [['lapack', blas!.solve!] as const] : [])])(
  'principalAngles with the %s solver',
  (_, solve) => {
    it.each([0, 30, 45, 60, 90])('one direction at %i degrees', (angle) => {
      const found = principalAngles(turned(angle), 1, 1, solve);
      expect(found.max).toBeCloseTo(angle, 6);
      expect(found.mean).toBeCloseTo(angle, 6);
      expect(found.overlap).toBeCloseTo(Math.cos((angle * Math.PI) / 180) ** 2, 12);
    });

    it('0, 30 and 90 degrees together', () => {
      const found = principalAngles(turned(30, 90, 0), 3, 3, solve);
      expect(found.max).toBeCloseTo(90, 4);
      expect(found.mean).toBeCloseTo(40, 4);
      expect(found.overlap).toBeCloseTo((1 + 0.75) / 3, 12);
    });

    it('the first j of a larger matrix, by its stride', () => {
      const found = principalAngles(turned(30, 30, 90), 3, 2, solve);
      expect(found.max).toBeCloseTo(30, 6);
      expect(found.overlap).toBeCloseTo(0.75, 12);
    });

    it('equal subspaces with other directions in them: no angle', () => {
      const [c, s] = [Math.cos(0.7), Math.sin(0.7)];
      const found = principalAngles(Float64Array.of(c, -s, s, c), 2, 2, solve);
      expect(found.max).toBeLessThan(1e-5);
      expect(found.overlap).toBeCloseTo(1, 14);
    });

    it('does not see how the bases are turned within their spans', () => {
      const [c, s] = [Math.cos(0.4), Math.sin(0.4)];
      const [p, q] = [Math.cos(Math.PI / 6), Math.cos(Math.PI / 3)];
      const found = principalAngles(Float64Array.of(c * p, -s * p, s * q, c * q), 2, 2, solve);
      expect(found.max).toBeCloseTo(60, 6);
      expect(found.mean).toBeCloseTo(45, 6);
      expect(found.overlap).toBeCloseTo(0.5, 12);
    });

    it('cosines that rounding puts above 1 are 0 degrees, not NaN', () => {
      expect(principalAngles(Float64Array.of(1 + 1e-7), 1, 1, solve).max).toBe(0);
      expect(principalAngles(diagonal(1 + 1e-7, 1), 2, 2, solve).max).toBeLessThan(1e-5);
    });
  },
);

describe('interpolate', () => {
  const MOST = 2;
  /** M, its columns in order, and M₁ V. */
  const check = (a: Float64Array, m: number, n: number): readonly number[] => {
    const before = a.slice();
    const { order, values } = interpolate(a, m, n, MOST)!;
    expect(a).toEqual(before);
    expect([...order].sort((x, y) => x - y)).toEqual(Array.from({ length: n }, (_, j) => j));
    const rest = n - m;
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < rest; j++) {
        let sum = 0;
        for (let l = 0; l < m; l++) sum += a[i * n + order[l]!]! * values[l * rest + j]!;
        // Entries of order one, coefficients of at most two: float64's 1e-16 for each of at most 65.
        expect(Math.abs(sum - a[i * n + order[m + j]!]!)).toBeLessThan(1e-12);
      }
    }
    for (const value of values) expect(Math.abs(value)).toBeLessThanOrEqual(MOST * (1 + 1e-12));
    // Columns either stay or change places in pairs, one of the first m and one of the others.
    const moved = [...order.entries()].filter(([to, from]) => to !== from);
    for (const [to, from] of moved) {
      expect(order[from]).toBe(to);
      expect(Math.min(to, from)).toBeLessThan(m);
      expect(Math.max(to, from)).toBeGreaterThanOrEqual(m);
    }
    return moved.map(([to]) => to);
  };

  it.each([
    [1, 1],
    [1, 4],
    [7, 7],
    [7, 9],
    [65, 97],
  ])('%i of %i random columns stand for all, with small coefficients', (m, n) => {
    check(Float64Array.from({ length: m * n }, noise(m)), m, n);
  });

  it('leaves columns where they are that stand for the others well', () => {
    const [m, n] = [5, 8];
    const next = noise(2);
    const a = Float64Array.from({ length: m * n }, (_, at) => (at % n === Math.floor(at / n) ? 1 : 0.1 * next()));
    expect(check(a, m, n)).toEqual([]);
  });

  it('exchanges columns that are zero, or all but combinations of others', () => {
    expect(check(Float64Array.of(0, 1, 0.5, 0, 0.25, 1), 2, 3)).toEqual([0, 2]);
    // The first three columns lie in a plane, to 1e-9.
    const flat = Float64Array.of(1, 0, 1, 0.1, 0, 1, 1, 0.2, 1, 1, 2 + 1e-9, 0.5);
    expect(check(flat, 3, 4)).toHaveLength(2);
  });

  it('says where there are too few independent columns', () => {
    expect(interpolate(Float64Array.of(1, 2, 3, 2, 4, 6), 2, 3, MOST)).toBeNull();
    expect(interpolate(new Float64Array(6), 2, 3, MOST)).toBeNull();
  });
});
