// Parts of a machine that not every machine has: root, a loop device, a system BLAS, protoc. A test that needs one is skipped where it is
// missing, loudly; where WEIGHTSPAN_REQUIRE lists it (comma-separated, as CI does), its absence is a failure.

/**
 * Whether the tests that need `part` should run.
 * Throws when the part is missing and WEIGHTSPAN_REQUIRE lists it.
 */
export function requirePart(part: string, available: boolean): boolean {
  if (available) return true;
  const required = (process.env.WEIGHTSPAN_REQUIRE ?? '').split(',').map((name) => name.trim());
  if (required.includes(part)) throw new Error(`WEIGHTSPAN_REQUIRE lists ${part}, and this machine has none`);
  process.stderr.write(`\n*** SKIPPED: this machine has no ${part}; what needs it is NOT TESTED here ***\n`);
  return false;
}
