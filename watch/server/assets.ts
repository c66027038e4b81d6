// The files of the page: a fixed list, read once and kept. An address is looked up in it and never becomes a path.
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, relative, sep } from 'node:path';

export interface Asset {
  readonly type: string;
  readonly bytes: Buffer;
}

export interface Assets {
  readonly byPath: ReadonlyMap<string, Asset>;
  /** What the page may load and run: itself, and its import map. */
  readonly policy: string;
}

const SCRIPT = 'text/javascript; charset=utf-8';
const STYLE = 'text/css; charset=utf-8';

/** Modules of the package that the page shares. */
const SHARED = ['sinks/human-format.js', 'sinks/terminal-text.js'];

export function loadAssets(): Assets {
  const require = createRequire(import.meta.url);
  const root = dirname(require.resolve('weightspan/package.json'));
  const built = join(root, 'dist');
  const source = join(root, 'watch/page');
  const uplot = dirname(require.resolve('uplot'));
  const byPath = new Map<string, Asset>();
  const add = (path: string, type: string, file: string): void => {
    byPath.set(path, { type, bytes: readFileSync(file) });
  };
  add('/', 'text/html; charset=utf-8', join(source, 'index.html'));
  add('/assets/colors.css', STYLE, join(root, 'watch/view/colors.css'));
  add('/assets/style.css', STYLE, join(source, 'style.css'));
  add('/assets/uplot.css', STYLE, join(uplot, 'uPlot.min.css'));
  add('/assets/uplot.js', SCRIPT, join(uplot, 'uPlot.esm.js'));
  const modules = ['page', 'view'].flatMap((folder) =>
    readdirSync(join(built, 'watch', folder))
      .filter((name) => name.endsWith('.js'))
      .map((name) => join(built, 'watch', folder, name)),
  );
  for (const file of [...modules, ...SHARED.map((name) => join(built, name))])
    add(`/assets/${relative(built, file).split(sep).join('/')}`, SCRIPT, file);
  const page = byPath.get('/')!.bytes.toString();
  const map = /<script type="importmap">([\s\S]*?)<\/script>/.exec(page)?.[1] ?? '';
  const hash = createHash('sha256').update(map).digest('base64');
  const policy = [
    "default-src 'none'",
    `script-src 'self' 'sha256-${hash}'`,
    "style-src 'self'",
    "connect-src 'self'",
    "img-src 'self' data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; ');
  return { byPath, policy };
}
