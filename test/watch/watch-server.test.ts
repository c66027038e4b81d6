// The page's server as strangers on the network, other pages and slow readers meet it. Group D of hostile input.
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { startWatchServer, type WatchOptions, type WatchServer } from '../../watch/server/watch-server.ts';
import { runCli } from '../pipeline/cli-process.ts';
import { blockOf, failed, plan, progressOf, WatchedRun } from './watched-run.ts';

const start = async (run: string, options: Partial<WatchOptions> = {}): Promise<WatchServer> => {
  const server = await startWatchServer({ run, port: 0, host: null, token: null, lookMs: 20, ...options });
  onTestFinished(() => server.close());
  return server;
};

interface Answer {
  readonly status: number;
  readonly headers: http.IncomingHttpHeaders;
  readonly text: string;
}

/** Sends a path as it is: `fetch` would tidy it up. */
const ask = (
  { port }: WatchServer,
  path: string,
  headers: Record<string, string> = {},
  method = 'GET',
): Promise<Answer> =>
  new Promise((resolve, reject) => {
    const request = http.request({ port, host: '127.0.0.1', path, headers, method, agent: false }, (response) => {
      const parts: Buffer[] = [];
      response.on('data', (part: Buffer) => parts.push(part));
      response.on('end', () =>
        resolve({
          status: response.statusCode ?? 0,
          headers: response.headers,
          text: Buffer.concat(parts).toString(),
        }),
      );
    });
    request.on('error', reject);
    request.end();
  });

it.each([
  ['localhost:1234', 200],
  ['127.0.0.1', 200],
  ['[::1]:9', 200],
  ['LOCALHOST', 200],
  ['evil.example', 403],
  ['localhost.evil.example', 403],
  ['127.0.0.1.evil.example', 403],
  ['evil.example:80', 403],
  ['localhost@evil.example', 403],
  ['169.254.169.254', 403],
  [' ', 403],
])('answers to the Host %j with %i', async (host, status) => {
  const server = await start(new WatchedRun().folder);
  for (const path of ['/', '/api/run', '/api/events?after=x', '/assets/uplot.js']) {
    if (status === 200 && path.startsWith('/api/events')) continue;
    expect((await ask(server, path, { host })).status).toBe(status);
  }
});

it.each([
  ['http://localhost:5', 'localhost:5', 200],
  ['http://localhost:6', 'localhost:5', 403],
  ['https://localhost:5', 'localhost:5', 403],
  ['http://evil.example', 'localhost:5', 403],
  ['null', 'localhost:5', 403],
])('answers to the Origin %j at %s with %i', async (origin, host, status) => {
  const server = await start(new WatchedRun().folder);
  expect((await ask(server, '/api/run', { origin, host })).status).toBe(status);
});

it('says nothing to another page that embeds it, but can be linked to', async () => {
  const server = await start(new WatchedRun().folder);
  const from = { 'sec-fetch-site': 'cross-site' };
  expect((await ask(server, '/api/run', { ...from, 'sec-fetch-mode': 'no-cors' })).status).toBe(403);
  expect((await ask(server, '/', { ...from, 'sec-fetch-mode': 'navigate' })).status).toBe(200);
});

it.each(['POST', 'PUT', 'DELETE', 'OPTIONS', 'PATCH'])('refuses %s', async (method) => {
  const server = await start(new WatchedRun().folder);
  const answer = await ask(server, '/api/run', {}, method);
  expect([answer.status, answer.headers.allow]).toEqual([405, 'GET, HEAD']);
});

it.each([
  '/../package.json',
  '/assets/../../package.json',
  '/assets/%2e%2e/%2e%2e/package.json',
  '/assets/..%2f..%2fpackage.json',
  '/assets/watch/page/..%5c..%5cpackage.json',
  '/assets//etc/passwd',
  '//etc/passwd',
  '/events.ndjson',
  '/api/../events.ndjson',
  '/assets/watch/page/main.js%00.css',
  '/api/slot?at=../../package.json',
  '/api/slot?at=-1',
  '/api/slot?at=0x0',
  '/api/slot?at=999999999',
  '/%',
])('finds nothing at %s', async (path) => {
  const run = new WatchedRun();
  run.tell(plan);
  const { status, text } = await ask(await start(run.folder), path);
  expect([400, 404]).toContain(status);
  expect(text).not.toMatch(/weightspan|root:|"seq"/);
});

it('sends what keeps a page to itself, with every answer', async () => {
  const server = await start(new WatchedRun().folder);
  for (const path of ['/', '/api/run', '/nothing']) {
    const { headers } = await ask(server, path);
    expect(headers['content-security-policy']).toMatch(
      /^default-src 'none'; script-src 'self' 'sha256-[^ ]+'; style-src 'self';/,
    );
    expect(headers['content-security-policy']).toMatch(/frame-ancestors 'none'$/);
    expect(headers).toMatchObject({
      'x-content-type-options': 'nosniff',
      'cross-origin-resource-policy': 'same-origin',
      'referrer-policy': 'no-referrer',
      'cache-control': 'no-store',
    });
    expect(headers).not.toHaveProperty('access-control-allow-origin');
  }
});

it('binds 127.0.0.1 alone', async () => {
  const server = await start(new WatchedRun().folder);
  const other = net.connect({ port: server.port, host: '127.0.0.2' });
  await expect(new Promise((resolve, reject) => other.on('connect', resolve).on('error', reject))).rejects.toThrow(
    'ECONNREFUSED',
  );
});

it('says nothing without the token, and takes it out of the address', async () => {
  const token = 'a-secret-of-20-signs';
  const server = await start(new WatchedRun().folder, { token });
  expect(server.url).toContain(`?token=${token}`);
  for (const path of ['/', '/api/run', '/api/events', '/assets/style.css', '/?token=wrong-secret-of-20-signs'])
    expect((await ask(server, path)).status).toBe(401);
  const first = await ask(server, `/?token=${token}`);
  expect([first.status, first.headers.location]).toEqual([302, '/']);
  const [cookie] = first.headers['set-cookie']!;
  expect(cookie).toMatch(/; HttpOnly; SameSite=Strict; Path=\/$/);
  expect((await ask(server, '/', { cookie: cookie!.split(';')[0]! })).status).toBe(200);
  expect((await ask(server, '/api/run', { authorization: `Bearer ${token}` })).status).toBe(200);
  expect((await ask(server, '/api/run', { cookie: `${cookie!.split('=')[0]}=wrong` })).status).toBe(401);
});

it('keeps the cookies of pages with different secrets apart', async () => {
  const cookies = await Promise.all(
    ['a-secret-of-20-signs', 'b-secret-of-20-signs'].map(async (token) => {
      const server = await start(new WatchedRun().folder, { token });
      return (await ask(server, `/?token=${token}`)).headers['set-cookie']![0]!.split('=')[0];
    }),
  );
  expect(new Set(cookies).size).toBe(2);
});

it.each([
  ['0.0.0.0', 'evil.example', 403],
  ['0.0.0.0', '10.1.2.3:80', 200],
  ['0.0.0.0', hostname(), 200],
  ['0.0.0.0', `${hostname()}.evil.example`, 403],
])('bound to %s answers to the Host %s with %i', async (bound, host, status) => {
  const token = 'a-secret-of-20-signs';
  const server = await start(new WatchedRun().folder, { host: bound, token });
  expect(new URL(server.url).hostname).toBe(hostname().toLowerCase());
  expect((await ask(server, '/api/run', { host, authorization: `Bearer ${token}` })).status).toBe(status);
});

it.each([
  [['--host', '0.0.0.0'], '0.0.0.0 can be reached from elsewhere; give a --token too'],
  [['--host', '10.0.0.1', '--token', 'short'], 'token: expected at least 16 printable characters'],
  [['--host', 'a b', '--token', 'a-secret-of-20-signs'], 'host: expected an address or a name'],
])('watch %j is refused', async (options, text) => {
  const { code, stderr } = await runCli(['watch', new WatchedRun().folder, ...options]);
  expect(code).toBe(64);
  expect(stderr).toContain(text);
});

const digestOf = (folder: string): string => {
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).sort();
  const hash = createHash('sha256');
  for (const file of files) {
    const stat = statSync(join(folder, file));
    hash.update(`${file} ${stat.mtimeMs} `);
    if (stat.isFile()) hash.update(readFileSync(join(folder, file)));
  }
  return hash.digest('hex');
};

it('changes nothing in the run', async () => {
  const run = new WatchedRun();
  run.lease();
  run.tell(plan, blockOf(0, [progressOf('a', 0.5, null)]));
  const before = digestOf(run.folder);
  const server = await start(run.folder);
  for (const path of ['/', '/api/run', '/api/slot?at=0', '/?delete=1'])
    expect((await ask(server, path)).status).toBe(200);
  expect(digestOf(run.folder)).toBe(before);
});

interface Listener {
  readonly frames: { readonly id: string; readonly event: string; readonly data: string }[];
  /** Resolves when there are that many frames with an id. */
  seen(count: number): Promise<void>;
  close(): void;
}

const listen = ({ port }: WatchServer, after: string, headers: Record<string, string> = {}): Listener => {
  const frames: { id: string; event: string; data: string }[] = [];
  let rest = '';
  let look = (): void => {};
  const request = http.get(
    { port, host: '127.0.0.1', path: `/api/events?after=${after}`, headers, agent: false },
    (response) => {
      response.setEncoding('utf8').on('data', (text: string) => {
        const parts = (rest + text).split('\n\n');
        rest = parts.pop()!;
        for (const part of parts) {
          const field = (name: string) => new RegExp(`^${name}: (.*)$`, 'm').exec(part)?.[1] ?? '';
          if (field('id') !== '') frames.push({ id: field('id'), event: field('event'), data: field('data') });
        }
        look();
      });
      response.on('error', () => {});
    },
  );
  request.on('error', () => {});
  onTestFinished(() => void request.destroy());
  return {
    frames,
    seen: (count) =>
      new Promise((resolve) => {
        look = () => {
          if (frames.length >= count) resolve();
        };
        look();
      }),
    close: () => request.destroy(),
  };
};

const seqs = ({ frames }: Listener): number[] => frames.map(({ id }) => Number(id.split('-')[0]));

it('sends every event once, and after a cut goes on from the last one', async () => {
  const run = new WatchedRun();
  run.tell(plan);
  const server = await start(run.folder);
  const { id } = JSON.parse((await ask(server, '/api/run')).text) as { readonly id: string };
  const first = listen(server, id);
  run.tell(blockOf(0, [progressOf('a', 0.5, null)]), blockOf(1, [progressOf('a', 0.5, 3)]));
  await first.seen(2);
  expect(seqs(first)).toEqual([1, 2]);
  first.close();
  run.tell(blockOf(2, [progressOf('a', 0.5, 3)]));
  await server.look();
  // What a browser sends when it comes back wins over the address it was opened with.
  const second = listen(server, id, { 'last-event-id': first.frames[1]!.id });
  run.tell(blockOf(3, [progressOf('a', 0.5, 3)]));
  await second.seen(2);
  expect(seqs(second)).toEqual([3, 4]);
  expect(JSON.parse(second.frames[0]!.data)).toMatchObject({ seq: 3, type: 'block', block: 2 });
  // Also from a server that has only just begun.
  const third = listen(await start(run.folder), first.frames[0]!.id);
  await third.seen(3);
  expect(seqs(third)).toEqual([2, 3, 4]);
});

it('tells who asks for what it does not have to read the state anew', async () => {
  const run = new WatchedRun();
  run.tell(plan, blockOf(0, []));
  const server = await start(run.folder, { stream: { ringBytes: 1 } });
  for (const after of ['', '7-7', '-1-0', '0-1', 'x']) {
    const listener = listen(server, after);
    await listener.seen(1);
    expect(listener.frames).toMatchObject([{ event: 'behind' }]);
    expect(listener.frames[0]!.id).toMatch(/^1-\d+$/);
  }
});

it('has everybody read anew when a resumed run has rewritten the log', async () => {
  const run = new WatchedRun();
  run.tell(plan, blockOf(0, []), blockOf(1, []));
  const server = await start(run.folder);
  const { id } = JSON.parse((await ask(server, '/api/run')).text) as { readonly id: string };
  const listener = listen(server, id);
  run.restart(plan, blockOf(0, [progressOf('b', 0.25, null)]));
  await listener.seen(1);
  expect(listener.frames[0]!.event).toBe('behind');
  const { view } = JSON.parse((await ask(server, '/api/run')).text);
  expect(view.slots.map(({ name }: { name: string }) => name)).toEqual(['b']);
});

it('tells a failure', async () => {
  const run = new WatchedRun();
  run.tell(plan);
  const server = await start(run.folder);
  run.tell(failed);
  await server.look();
  expect(JSON.parse((await ask(server, '/api/run')).text).status).toMatchObject({
    state: 'failed',
    text: 'SourceMalformed: b.safetensors: NaN at 3',
  });
});
