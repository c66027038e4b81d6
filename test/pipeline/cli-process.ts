// Runs the built command line as a process of its own, as a user does.
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { onTestFinished } from 'vitest';
import { writeSafetensors } from '../sources/write-safetensors.ts';

export const root = join(dirname(fileURLToPath(import.meta.url)), '../..');
export const cli = join(root, 'dist/pipeline/cli.js');

export interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunningCli {
  readonly child: ChildProcess;
  readonly ended: Promise<Ended>;
  /** Resolves once the text has been seen on that stream; rejects when the process ends without it. */
  seen(stream: 'stdout' | 'stderr', text: string): Promise<void>;
}

export function startCli(args: readonly string[], env: Readonly<Record<string, string>> = {}): RunningCli {
  const child = spawn(process.execPath, [cli, ...args], {
    env: { ...process.env, NO_COLOR: '1', ...env },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  const text = { stdout: '', stderr: '' };
  const watchers = new Set<() => void>();
  for (const stream of ['stdout', 'stderr'] as const) {
    child[stream].setEncoding('utf8').on('data', (chunk: string) => {
      text[stream] += chunk;
      for (const watcher of watchers) watcher();
    });
  }
  const ended = new Promise<Ended>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, ...text }));
  });
  const seen = (stream: 'stdout' | 'stderr', wanted: string): Promise<void> =>
    new Promise((resolve, reject) => {
      const look = (): void => {
        if (!text[stream].includes(wanted)) return;
        watchers.delete(look);
        resolve();
      };
      watchers.add(look);
      look();
      void ended.then(({ code, stderr }) => reject(new Error(`ended with ${code} before ${wanted}: ${stderr}`)));
    });
  return { child, ended, seen };
}

export async function runCli(args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Ended> {
  const { child, ended } = startCli(args, env);
  child.stdin?.end();
  return ended;
}

export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'weightspan-cli-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Writes `count` models of one rows x cols slot, `w`, with weights that differ; returns their folder. */
export function writeModels(folder: string, count: number, rows = 8, cols = 16): string {
  for (let model = 0; model < count; model++) {
    const data = Float32Array.from({ length: rows * cols }, (_, i) => Math.sin((model + 1) * (i + 1)));
    const name = String(model).padStart(4, '0');
    writeSafetensors(join(folder, name, 'model.safetensors'), [{ name: 'w', dtype: 'F32', shape: [rows, cols], data }]);
  }
  return folder;
}
