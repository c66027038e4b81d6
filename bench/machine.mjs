import { cpus, release } from 'node:os';

/** What results are told with: the machine, and what runs on it. */
export function describeMachine() {
  return {
    cpu: cpus()[0]?.model,
    cores: cpus().length,
    system: `${process.platform} ${release()}`,
    node: process.version,
  };
}
