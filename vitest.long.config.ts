// Whole runs, many of them: stopped, killed and resumed, extended, merged, over adapters, over threads and memory. Takes minutes.
import { defineConfig } from 'vitest/config';

delete process.env.OPENBLAS_CORETYPE;

export default defineConfig({
  test: {
    include: ['test/**/*.long.ts'],
    globalSetup: ['test/global-setup.ts'],
    testTimeout: 240_000,
    hookTimeout: 240_000,
    // Two cores, and every test starts processes of two threads.
    maxWorkers: 2,
  },
});
