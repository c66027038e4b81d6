// Tests that start worker threads or the CLI run the built package, as a user would: Node 20 cannot load TypeScript.
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';

export default function setup(): void {
  // A bundle has the build, and nothing to make it with (bench/bundle.mjs).
  if (!existsSync('tsconfig.build.json')) return;
  execFileSync('npm', ['run', '--silent', 'build'], { stdio: 'inherit' });
}
