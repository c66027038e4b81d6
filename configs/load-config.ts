// Reads a YAML config file. The file is a stranger's: it is opened only when it is an ordinary file of modest size.
// Paths inside are relative to the current folder, as on the command line: a preset can then be run on any folder, and
// what a flag says and what a file says never differ.
import { readFile, stat } from 'node:fs/promises';
import { Effect } from 'effect';
import { escapeControls } from '../sinks/terminal-text.ts';
import { type Decoded, decodeOptions } from './decode-options.ts';
import { ConfigInvalid } from './errors.ts';
import { parseYaml } from './parse-yaml.ts';

/** The YAML parser is quadratic in the worst case, a second at this size; a longer list of sources belongs in @list.txt. */
const maxConfigBytes = 131_072;

class Refusal extends Error {}

async function readText(path: string): Promise<string> {
  const entry = await stat(path);
  if (!entry.isFile()) throw new Refusal('expected a file, found something else');
  if (entry.size > maxConfigBytes) {
    throw new Refusal(`expected at most ${maxConfigBytes} bytes, found ${entry.size}`);
  }
  const bytes = await readFile(path);
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw new Refusal('expected UTF-8 text, found other bytes');
  }
}

function explain(error: unknown): string {
  if (error instanceof Refusal) return error.message;
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (code === 'ENOENT') return 'no such config file';
  return `cannot be read: ${typeof code === 'string' ? code : String(error)}`;
}

/**
 * What the file says, decoded; wrong options are returned, so that the flags' mistakes can join them.
 * Fails with ConfigInvalid when the file cannot be read or is no YAML.
 */
export const loadConfig = (path: string): Effect.Effect<Decoded, ConfigInvalid> => {
  const where = escapeControls(path);
  const refuse = (details: readonly string[]) =>
    new ConfigInvalid({ issues: details.map((detail) => `${where}: ${escapeControls(detail)}`) });
  return Effect.tryPromise({ try: () => readText(path), catch: (error) => refuse([explain(error)]) }).pipe(
    Effect.flatMap((text): Effect.Effect<Decoded, ConfigInvalid> => {
      const { value, issues } = parseYaml(text);
      // A file of nothing but comments asks for nothing.
      return issues.length > 0 ? Effect.fail(refuse(issues)) : Effect.succeed(decodeOptions(value ?? {}, where));
    }),
  );
};
