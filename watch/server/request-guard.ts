// Who may ask the page's server what. It binds 127.0.0.1, but a browser on this machine runs the pages of strangers: a Host
// that is not ours is DNS rebinding, an Origin that is not ours another page. With a token nothing is said without it.
import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { isIP } from 'node:net';
import { hostname } from 'node:os';

export interface Refusal {
  readonly status: 400 | 401 | 403 | 405;
  readonly text: string;
}

export interface GuardOptions {
  readonly token: string | null;
  /** What the server was told to bind, beyond this machine; null for 127.0.0.1. */
  readonly host: string | null;
}

const LOOPBACK = ['localhost', '127.0.0.1', '[::1]'];

const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
const isSame = (given: string, token: string): boolean => timingSafeEqual(digest(given), digest(token));

/** `localhost:8080` → `localhost`; any port, since a tunnel has its own. */
const nameOf = (host: string): string | null => /^(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?$/i.exec(host)?.[1] ?? null;

export class RequestGuard {
  /** A browser has one set of cookies for all ports of a machine: pages of different secrets must not share a name. */
  readonly cookie: string;
  readonly #token: string | null;
  readonly #names: ReadonlySet<string>;
  readonly #allowsAddresses: boolean;

  constructor({ token, host }: GuardOptions) {
    this.#token = token;
    this.cookie = `weightspan-${digest(token ?? '')
      .toString('hex')
      .slice(0, 8)}`;
    this.#names = new Set(
      [...LOOPBACK, ...(host === null ? [] : [host, hostname()])].map((name) => name.toLowerCase()),
    );
    // No name server can point an address elsewhere.
    this.#allowsAddresses = host !== null;
  }

  /** Null for a request to be answered. */
  check(request: IncomingMessage): Refusal | null {
    const { method, headers } = request;
    if (method !== 'GET' && method !== 'HEAD') return { status: 405, text: 'only GET and HEAD' };
    const host = headers.host ?? '';
    const name = nameOf(host)?.toLowerCase() ?? null;
    if (name === null || !this.#isOurs(name))
      return { status: 403, text: 'this Host is not served: use localhost or 127.0.0.1' };
    if (headers.origin !== undefined && !isOriginOf(headers.origin, host))
      return { status: 403, text: 'another page may not read this' };
    const site = headers['sec-fetch-site'];
    if (site === 'cross-site' && headers['sec-fetch-mode'] !== 'navigate')
      return { status: 403, text: 'another page may not read this' };
    return null;
  }

  /** Apart from `check`: the first visit brings the token in its address. */
  checkToken(request: IncomingMessage): Refusal | null {
    if (this.#token === null || this.#tokensOf(request).some((given) => isSame(given, this.#token!))) return null;
    return { status: 401, text: 'open the address that was printed when the server started: it holds the token' };
  }

  isToken(given: string | null): boolean {
    return this.#token !== null && given !== null && isSame(given, this.#token);
  }

  #isOurs(name: string): boolean {
    if (this.#names.has(name)) return true;
    return this.#allowsAddresses && isIP(name.replace(/^\[|\]$/g, '')) !== 0;
  }

  #tokensOf({ headers }: IncomingMessage): readonly string[] {
    const bearer = /^Bearer (.+)$/.exec(headers.authorization ?? '')?.[1];
    const cookies = (headers.cookie ?? '')
      .split(';')
      .map((cookie) => cookie.trim())
      .filter((cookie) => cookie.startsWith(`${this.cookie}=`))
      .map((cookie) => decoded(cookie.slice(this.cookie.length + 1)));
    return bearer === undefined ? cookies : [bearer, ...cookies];
  }
}

const decoded = (text: string): string => {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
};

const isOriginOf = (origin: string, host: string): boolean => {
  try {
    const { protocol, host: from } = new URL(origin);
    return protocol === 'http:' && from === new URL(`http://${host}`).host;
  } catch {
    return false;
  }
};
