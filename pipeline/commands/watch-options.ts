// The options of the page that `watch` and `run --watch` serve, and what must hold of them.
import { existsSync, readdirSync, statSync } from 'node:fs';
import { isIP } from 'node:net';
import { join } from 'node:path';
import { Effect, Option } from 'effect';
import { Flag } from 'effect/cli';
import { ConfigInvalid } from '../../configs/errors.ts';
import type { WatchOptions } from '../../watch/server/watch-server.ts';

const text = (name: string, metavar: string, description: string) =>
  Flag.String(name).pipe(Flag.withMetavar(metavar), Flag.withDescription(description), Flag.optional);

export const watchFlags = {
  port: text('port', 'N', 'Port of the page (default: one that is free)'),
  host: text('host', 'ADDRESS', 'Address to serve the page on instead of 127.0.0.1; needs --token'),
  token: text('token', 'SECRET', 'Serve the page only to who has this secret, of at least 16 characters'),
};

export type WatchFlags = { readonly [K in keyof typeof watchFlags]: Option.Option<string> };

/** Fails with all that is wrong at once. */
export const watchOptions = (run: string, flags: WatchFlags): Effect.Effect<WatchOptions, ConfigInvalid> => {
  const [port, host, token] = [flags.port, flags.host, flags.token].map(Option.getOrNull) as (string | null)[];
  const issues: string[] = [];
  if (port != null && !(/^\d{1,5}$/.test(port) && Number(port) <= 65_535))
    issues.push(`port: expected a whole number from 0 to 65535, found ${port}`);
  if (host != null && isIP(host) === 0 && !/^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/i.test(host))
    issues.push(`host: expected an address or a name, found ${JSON.stringify(host)}`);
  if (token != null && !/^[\x21-\x7e]{16,}$/.test(token))
    issues.push('token: expected at least 16 printable characters without blanks, found fewer or others');
  if (host != null && token == null && !['127.0.0.1', 'localhost', '::1'].includes(host))
    issues.push(
      `host: ${host} can be reached from elsewhere; give a --token too, or leave --host out and use an SSH tunnel`,
    );
  if (issues.length > 0) return Effect.fail(new ConfigInvalid({ issues }));
  return Effect.succeed({ run, port: Number(port ?? 0), host: host ?? null, token: token ?? null });
};

/** What is wrong with a folder that is to be watched; null for a run, or one that may become one. */
export const notARun = (run: string): string | null => {
  if (!existsSync(run)) return null;
  if (!statSync(run).isDirectory()) return 'expected the folder of a run, found a file';
  const isRun = ['run.json', 'events.ndjson', 'checkpoints'].some((name) => existsSync(join(run, name)));
  return isRun || readdirSync(run).length === 0 ? null : 'expected the folder of a run, found something else';
};
