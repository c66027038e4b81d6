// Reads a YAML config file. The file is a stranger's: it is opened only when it is an ordinary file of at most 1 MB, aliases
// may not multiply (a billion laughs), a key may stand once, and tags mean nothing.
// Paths inside are relative to the current folder, as on the command line: a preset can then be run on any folder, and
// what a flag says and what a file says never differ.
import { readFile, stat } from 'node:fs/promises';
import { Effect } from 'effect';
import { parseDocument } from 'yaml';
import { type Decoded, decodeOptions } from './decode-options.ts';
import { ConfigInvalid } from './errors.ts';
import { printable } from './show-value.ts';

const maxConfigBytes = 1_000_000;

const codeOf = (error: unknown): string =>
  (error instanceof Error && 'code' in error && typeof error.code === 'string' && error.code) || String(error);

async function readText(path: string): Promise<string> {
  const entry = await stat(path);
  if (!entry.isFile()) throw new Error('expected a file, found something else');
  if (entry.size > maxConfigBytes) {
    throw new Error(`expected at most ${maxConfigBytes} bytes, found ${entry.size}`);
  }
  const bytes = await readFile(path);
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw new Error('expected UTF-8 text, found other bytes');
  }
}

function parseYaml(text: string): { readonly value: unknown; readonly issues: readonly string[] } {
  const document = parseDocument(text, { prettyErrors: true, uniqueKeys: true, stringKeys: true });
  // An unknown tag is only a warning to the parser; here it is a mistake.
  const problems = [...document.errors, ...document.warnings];
  if (problems.length > 0) {
    return {
      value: null,
      issues: problems.map((problem) => {
        const [summary = problem.message] = problem.message.split('\n');
        return summary.replace(/:$/, '');
      }),
    };
  }
  return { value: document.toJS({ maxAliasCount: 100 }), issues: [] };
}

/**
 * What the file says, decoded; wrong options are returned, so that the flags' mistakes can join them.
 * Fails with ConfigInvalid when the file cannot be read or is no YAML.
 */
export const loadConfig = (path: string): Effect.Effect<Decoded, ConfigInvalid> => {
  const where = printable(path);
  const refuse = (detail: string) => new ConfigInvalid({ issues: [`${where}: ${printable(detail)}`] });
  return Effect.tryPromise({
    try: () => readText(path),
    catch: (error) => {
      const code = codeOf(error);
      if (code === 'ENOENT') return refuse('no such config file');
      return refuse(error instanceof Error && !('code' in error) ? error.message : `cannot be read: ${code}`);
    },
  }).pipe(
    Effect.flatMap((text) =>
      Effect.try({
        try: () => parseYaml(text),
        // Deep nesting overflows the parser's stack, an alias bomb trips its count.
        catch: (error) => refuse(`not usable YAML: ${error instanceof Error ? error.message : String(error)}`),
      }),
    ),
    Effect.flatMap(({ value, issues }): Effect.Effect<Decoded, ConfigInvalid> => {
      if (issues.length > 0) {
        return Effect.fail(new ConfigInvalid({ issues: issues.map((issue) => `${where}: ${printable(issue)}`) }));
      }
      // A file of nothing but comments asks for nothing.
      return Effect.succeed(decodeOptions(value ?? {}, where));
    }),
  );
};
