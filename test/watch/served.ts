// The command `watch` as a process of its own, and a wire to it that can be cut.
import net from 'node:net';
import { onTestFinished } from 'vitest';
import { startCli } from '../pipeline/cli-process.ts';

/** Starts `weightspan watch` and resolves with the address it prints. */
export async function serve(
  run: string,
  options: readonly string[] = [],
): Promise<{ readonly url: string; kill(): void }> {
  const { child, seen } = startCli(['watch', run, ...options]);
  onTestFinished(() => void child.kill('SIGKILL'));
  let text = '';
  child.stdout!.on('data', (part: string) => {
    text += part;
  });
  await seen('stdout', '\n');
  return { url: text.trim(), kill: () => void child.kill('SIGKILL') };
}

export interface Wire {
  readonly url: string;
  /** What was sent through it, from the page. */
  readonly asked: string[];
  cut(): void;
  mend(): void;
}

/** A way to `url` that can be cut and mended. */
export async function wireTo(url: string): Promise<Wire> {
  const port = Number(new URL(url).port);
  const sockets = new Set<net.Socket>();
  const asked: string[] = [];
  let isCut = false;
  const server = net.createServer((near) => {
    if (isCut) {
      near.destroy();
      return;
    }
    const far = net.connect(port, '127.0.0.1');
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(one);
      one.on('error', () => {});
      one.on('close', () => {
        sockets.delete(one);
        other.destroy();
      });
      one.pipe(other);
    }
    near.on('data', (data) => asked.push(data.toString()));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return {
    url: `http://127.0.0.1:${(server.address() as net.AddressInfo).port}/`,
    asked,
    cut: () => {
      isCut = true;
      for (const socket of sockets) socket.destroy();
    },
    mend: () => {
      isCut = false;
    },
  };
}
