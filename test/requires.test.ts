import { afterEach, expect, it, vi } from 'vitest';
import { requirePart } from './requires.ts';

afterEach(() => {
  vi.unstubAllEnvs();
  vi.restoreAllMocks();
});

it('runs what can run', () => {
  vi.stubEnv('WEIGHTSPAN_REQUIRE', 'loop');
  expect(requirePart('loop', true)).toBe(true);
});

it('skips loudly what cannot', () => {
  vi.stubEnv('WEIGHTSPAN_REQUIRE', 'blas');
  const write = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  expect(requirePart('loop', false)).toBe(false);
  expect(write).toHaveBeenCalledWith(expect.stringContaining('no loop'));
});

it('fails where the part was promised', () => {
  vi.stubEnv('WEIGHTSPAN_REQUIRE', 'blas, loop');
  expect(() => requirePart('loop', false)).toThrow('WEIGHTSPAN_REQUIRE lists loop');
});
