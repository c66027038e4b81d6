// The page in a real Chromium, from the PATH. Apart from the other tests: it needs a browser, and takes a minute.
import { defineConfig } from 'vitest/config';

delete process.env.OPENBLAS_CORETYPE;

export default defineConfig({
  test: {
    include: ['test/**/*.browser.ts'],
    globalSetup: ['test/global-setup.ts'],
    testTimeout: 120_000,
    hookTimeout: 120_000,
    maxWorkers: 1,
    fileParallelism: false,
  },
});
