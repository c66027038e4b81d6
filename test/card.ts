// The NVIDIA card that tests use: the double (test/cuda-double/README.md), or with WEIGHTSPAN_TEST_CARD=real the machine's own, on
// which the faults that only the double can have are left out.
import type { CudaPaths } from '../operators/devices/cuda-library.ts';
import { findCuda } from '../operators/devices/find-cuda.ts';
import { cudaDouble } from './cuda-double/build.ts';

export const isRealCard = process.env.WEIGHTSPAN_TEST_CARD === 'real';

/** What makes the command line take it; null where there is none. */
export const cardEnvironment: Readonly<Record<string, string>> | null = isRealCard
  ? {}
  : cudaDouble === null
    ? null
    : { WEIGHTSPAN_CUDA: cudaDouble };

export const cardPaths: CudaPaths | null =
  cardEnvironment === null ? null : findCuda(isRealCard ? process.env : cardEnvironment);
