// The page's server: node:http on 127.0.0.1, for one run. GET / is the page, /api/run the state, /api/slot?at=N one slot,
// /api/events the stream of what happens, /metrics the state for Prometheus. Nothing it answers changes anything. It looks at the run's events five times a
// second, and at nothing else unless it is asked.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { hostname } from 'node:os';
import { basename, resolve } from 'node:path';
import type { RunAnswer } from '../view/answers.ts';
import { RateMeter } from '../view/rate-meter.ts';
import { type Assets, loadAssets } from './assets.ts';
import { EventStream, type EventStreamOptions, eventId } from './event-stream.ts';
import { RequestGuard } from './request-guard.ts';
import { RunReader } from './run-reader.ts';

export interface WatchOptions {
  readonly run: string;
  /** 0 for one that is free. */
  readonly port: number;
  /** What to bind instead of 127.0.0.1; only with a token. */
  readonly host: string | null;
  readonly token: string | null;
  readonly stream?: EventStreamOptions;
  readonly lookMs?: number;
}

export interface WatchServer {
  /** To be opened by a person; holds the token where there is one. */
  readonly url: string;
  readonly port: number;
  /** Pages that follow the run. */
  readonly clients: number;
  /** Reads on at once. */
  look(): Promise<void>;
  close(): Promise<void>;
}

const LOOK_MS = 200;
const BEAT_MS = 5_000;

const headers = (policy: string): Record<string, string> => ({
  'Cache-Control': 'no-store',
  'Content-Security-Policy': policy,
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Permissions-Policy': 'camera=(), geolocation=(), microphone=()',
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
  'X-Frame-Options': 'DENY',
});

/** Rejects with what the system says, as EADDRINUSE. */
export async function startWatchServer(options: WatchOptions): Promise<WatchServer> {
  const reader = new RunReader(options.run);
  const stream = new EventStream(options.stream);
  const guard = new RequestGuard(options);
  const assets = loadAssets();
  const meter = new RateMeter();
  const server = createServer({ maxHeaderSize: 16_384, requestTimeout: 30_000 }, (request, response) => {
    void answer(request, response, { reader, stream, guard, assets, meter, token: options.token }).catch(
      (cause: unknown) => {
        if (response.headersSent) response.destroy();
        else sendText(response, 500, `cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`);
      },
    );
  });
  server.maxConnections = 256;
  await listen(server, options);

  let told = '';
  const look = async (): Promise<void> => {
    for (let hasMore = true; hasMore; ) {
      const piece = await reader.look();
      hasMore = piece.hasMore;
      if (piece.isAnew || piece.lines.length > 0) meter.measure(reader.view.progress);
      if (piece.isAnew) stream.restart(piece.lines);
      else if (piece.lines.length > 0) stream.push(piece.lines);
    }
    const { memory, ...state } = reader.status();
    const text = JSON.stringify(state);
    if (text !== told) tellStatus();
    told = text;
  };
  const tellStatus = (): void => stream.tell('status', { ...reader.status(), now: new Date().toISOString() });
  let isLooking: Promise<void> | null = null;
  const lookOnce = (): Promise<void> => {
    // A run folder that cannot be read now may be the next time.
    isLooking ??= look()
      .catch(() => {})
      .finally(() => {
        isLooking = null;
      });
    return isLooking;
  };
  await lookOnce();
  const looking = setInterval(() => void lookOnce(), options.lookMs ?? LOOK_MS);
  const beating = setInterval(() => {
    tellStatus();
    stream.beat();
  }, BEAT_MS);

  const { port } = server.address() as AddressInfo;
  // All addresses are none that a browser could open.
  const host = ['0.0.0.0', '::'].includes(options.host ?? '') ? hostname() : (options.host ?? '127.0.0.1');
  const shown = host.includes(':') ? `[${host}]` : host;
  const query = options.token === null ? '' : `?token=${encodeURIComponent(options.token)}`;
  return {
    url: `http://${shown}:${port}/${query}`,
    port,
    get clients() {
      return stream.clients;
    },
    look: lookOnce,
    close: async () => {
      clearInterval(looking);
      clearInterval(beating);
      stream.close();
      server.close();
      server.closeIdleConnections();
      // Who does not read does not keep us.
      setTimeout(() => server.closeAllConnections(), 500).unref();
      await isLooking;
    },
  };
}

const listen = (server: Server, { port, host }: WatchOptions): Promise<void> =>
  new Promise((done, fail) => {
    server.once('error', fail);
    server.listen({ port, host: host ?? '127.0.0.1' }, () => {
      server.off('error', fail);
      done();
    });
  });

interface Answering {
  readonly reader: RunReader;
  readonly stream: EventStream;
  readonly guard: RequestGuard;
  readonly assets: Assets;
  readonly meter: RateMeter;
  readonly token: string | null;
}

const answer = async (request: IncomingMessage, response: ServerResponse, by: Answering): Promise<void> => {
  const { reader, stream, guard, assets } = by;
  for (const [name, value] of Object.entries(headers(assets.policy))) response.setHeader(name, value);
  const refusal = guard.check(request);
  if (refusal !== null) {
    if (refusal.status === 405) response.setHeader('Allow', 'GET, HEAD');
    return sendText(response, refusal.status, refusal.text);
  }
  let url: URL;
  try {
    url = new URL(request.url ?? '/', 'http://localhost');
  } catch {
    return sendText(response, 400, 'no address');
  }
  // The token leaves the address at once: addresses are kept in histories.
  if (url.pathname === '/' && guard.isToken(url.searchParams.get('token'))) {
    response.setHeader(
      'Set-Cookie',
      `${guard.cookie}=${encodeURIComponent(by.token!)}; HttpOnly; SameSite=Strict; Path=/`,
    );
    response.writeHead(302, { Location: '/' }).end();
    return;
  }
  const locked = guard.checkToken(request);
  if (locked !== null) return sendText(response, locked.status, locked.text);

  const asset = assets.byPath.get(url.pathname);
  if (asset !== undefined) {
    response.writeHead(200, { 'Content-Type': asset.type, 'Content-Length': asset.bytes.length });
    response.end(request.method === 'HEAD' ? undefined : asset.bytes);
    return;
  }
  switch (url.pathname) {
    case '/api/run':
      return sendJson(response, runAnswer(reader));
    case '/metrics': {
      // Effect takes a third of a second to load: not before somebody asks.
      const { METRICS_TYPE, renderMetrics } = await import('./run-metrics.ts');
      const text = renderMetrics(runAnswer(reader), by.meter.measure(reader.view.progress));
      response.writeHead(200, { 'Content-Type': METRICS_TYPE }).end(text);
      return;
    }
    case '/api/slot': {
      const at = url.searchParams.get('at') ?? '';
      const detail = /^\d{1,9}$/.test(at) ? await reader.detail(Number(at)) : null;
      return detail === null ? sendText(response, 404, 'no such slot') : sendJson(response, detail);
    }
    case '/api/events': {
      if (request.method === 'HEAD') return sendText(response, 200, '');
      // What the browser sends when it comes back counts, else where the page says it stands.
      const after = request.headers['last-event-id'] ?? url.searchParams.get('after') ?? '';
      return stream.open(response, String(after));
    }
    default:
      return sendText(response, 404, 'not found');
  }
};

const runAnswer = (reader: RunReader): RunAnswer => ({
  id: eventId(reader.view),
  name: basename(resolve(reader.run)),
  run: reader.run,
  now: new Date().toISOString(),
  status: reader.status(),
  settings: reader.settings,
  view: reader.view,
});

const sendText = (response: ServerResponse, status: number, text: string): void => {
  response.writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8' }).end(`${text}\n`);
};

const sendJson = (response: ServerResponse, value: unknown): void => {
  response.writeHead(200, { 'Content-Type': 'application/json; charset=utf-8' }).end(JSON.stringify(value));
};
