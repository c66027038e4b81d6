// ml-matrix, the library of small dense matrices, loaded when it is first needed: most runs never do, and every thread that
// imports it spends 0.1 s of processor time on looking through its source.
import { createRequire } from 'node:module';

type Library = typeof import('ml-matrix');

let library: Library | null = null;

export const smallMatrices = (): Library => {
  library ??= createRequire(import.meta.url)('ml-matrix') as Library;
  return library;
};
