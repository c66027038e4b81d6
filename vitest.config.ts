import { defineConfig } from 'vitest/config';

// A kernel pinned in the shell would be warned of in every run: tests see what the machine does by itself.
delete process.env.OPENBLAS_CORETYPE;

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/global-setup.ts'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // Two cores: the tests that start worker threads must not fight each other for them.
    maxWorkers: 2,
  },
});
