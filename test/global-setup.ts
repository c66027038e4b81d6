// Tests that start worker threads or the CLI run the built package, as a user would: Node 20 cannot load TypeScript.
import { execFileSync } from 'node:child_process';

export default function setup(): void {
  execFileSync('npm', ['run', '--silent', 'build'], { stdio: 'inherit' });
}
