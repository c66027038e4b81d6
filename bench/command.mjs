// A fresh process of the command line, watched: its events with the time they came at, its memory as the kernel counts
// it, sampled and at its peak.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { cleanEnvironment } from './python.mjs';

export const cli = join(import.meta.dirname, '../dist/pipeline/cli.js');
const preload = pathToFileURL(join(import.meta.dirname, 'peak-memory.mjs')).href;

function residentBytes(pid) {
  const path = `/proc/${pid}/status`;
  if (!existsSync(path)) return null;
  try {
    const [, kibibytes] = /^VmRSS:\s+(\d+)/m.exec(readFileSync(path, 'utf8')) ?? [];
    return kibibytes === undefined ? null : Number(kibibytes) * 1024;
  } catch {
    return null; // Gone between the two calls.
  }
}

/** Runs weightspan with `args`; throws with its stderr when it fails. `cpuSeconds` are of all threads, others since the start. */
export async function runCommand(args, { everyMs = 200, onStderr = () => {} } = {}) {
  const start = performance.now();
  const now = () => (performance.now() - start) / 1000;
  const child = spawn(process.execPath, ['--import', preload, cli, ...args.map(String)], {
    env: cleanEnvironment(),
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
  });
  const samples = [];
  const timer = setInterval(() => {
    const bytes = residentBytes(child.pid);
    if (bytes !== null) samples.push({ at: now(), bytes });
  }, everyMs);
  const text = { stdout: '', stderr: '', peak: '' };
  const arrivals = [];
  [child.stdout, child.stderr, child.stdio[3]].forEach((stream, i) => {
    const name = ['stdout', 'stderr', 'peak'][i];
    stream.setEncoding('utf8');
    stream.on('data', (chunk) => {
      text[name] += chunk;
      if (name === 'stderr') onStderr(chunk);
      if (name !== 'stdout') return;
      for (let n = chunk.split('\n').length - 1; n > 0; n--) arrivals.push(now());
    });
  });
  const [status] = await once(child, 'close');
  clearInterval(timer);
  if (status !== 0) throw new Error(`weightspan ${args[0]} ended with ${status}\n${text.stderr.trim()}`);
  const [peakBytes, cpuSeconds] = text.peak.split(' ').map(Number);
  return { stdout: text.stdout, arrivals, samples, peakBytes, cpuSeconds, seconds: now() };
}

/** Runs `weightspan run … --json`; its events carry `at`, when they came. */
export async function runWatched(args, options) {
  const { stdout, arrivals, ...rest } = await runCommand(['run', ...args, '--json'], options);
  const events = stdout
    .trim()
    .split('\n')
    .map((line, i) => ({ ...JSON.parse(line), at: arrivals[i] }));
  const done = events.find(({ type }) => type === 'done');
  if (!done) throw new Error(`weightspan printed no 'done' line`);
  return { ...rest, events, done };
}

/** Starts a command that prints an address and goes on until it is killed. */
export async function startServer(args) {
  const child = spawn(process.execPath, [cli, ...args], {
    env: cleanEnvironment(),
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  for await (const text of child.stdout) return { url: String(text).trim(), kill: () => child.kill('SIGKILL') };
  throw new Error(`weightspan ${args[0]} ended before it printed its address`);
}

/** What `weightspan plan … --json` says. */
export async function planOf(args) {
  return JSON.parse((await runCommand(['plan', ...args, '--json'])).stdout);
}
