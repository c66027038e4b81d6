// What must be survived: kills, power loss, disks that fail. Needs root, strace and a loop device; takes minutes.
import { defineConfig } from 'vitest/config';

delete process.env.OPENBLAS_CORETYPE;

export default defineConfig({
  test: {
    include: ['test/**/*.faults.ts'],
    globalSetup: ['test/global-setup.ts'],
    testTimeout: 900_000,
    hookTimeout: 120_000,
    // One after the other: kills are timed.
    maxWorkers: 1,
    fileParallelism: false,
  },
});
