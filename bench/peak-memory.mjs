// Preloaded into a watched process: at its end, writes its peak resident memory in bytes, and the processor seconds of all of
// its threads, to file descriptor 3. Not
// resourceUsage().maxRSS where it can be helped: on Linux that starts at the peak of the process that started this one.
import { readFileSync, writeSync } from 'node:fs';
import { isMainThread } from 'node:worker_threads';

function peakBytes() {
  try {
    return Number(/^VmHWM:\s+(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'))[1]) * 1024;
  } catch {
    return process.resourceUsage().maxRSS * 1024;
  }
}

function cpuSeconds() {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

if (isMainThread) process.on('exit', () => writeSync(3, `${peakBytes()} ${cpuSeconds()}`));
