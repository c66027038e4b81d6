// Checks options of unknown origin against the schema and says everything that is wrong with them, not the first thing.
import { Result, Schema, SchemaIssue } from 'effect';
import { escapeControls } from '../sinks/terminal-text.ts';
import { RunOptions } from './schema.ts';
import { showValue } from './show-value.ts';

export interface Decoded {
  /** What was right, and only that. */
  readonly options: RunOptions;
  /** One line each: `include[1]: expected a glob, found 3`. */
  readonly issues: readonly string[];
  /** The options that the issues are about. */
  readonly wrong: ReadonlySet<string>;
}

const decode = Schema.decodeUnknownResult(RunOptions, { errors: 'all', onExcessProperty: 'error' });

const expectedOf = (annotations: unknown): string | undefined => {
  const expected = (annotations as { readonly expected?: unknown } | undefined)?.expected;
  return typeof expected === 'string' ? expected : undefined;
};

// Empty for an unknown key: the message is then made from the key itself.
const listIssues = SchemaIssue.makeFormatterStandardSchemaV1({
  leafHook: (issue) => {
    if (issue._tag === 'UnexpectedKey') return '';
    return ('ast' in issue ? expectedOf(issue.ast.annotations) : undefined) ?? 'something else';
  },
  checkHook: (issue) => expectedOf(issue.filter.annotations),
});

const plain = (key: string): string => key.replace(/[-_ ]/g, '').toLowerCase();

function unknownKey(key: string): string {
  const twin = Object.keys(RunOptions.fields).find((known) => plain(known) === plain(key));
  if (twin !== undefined) return `unknown option; did you mean ${twin}?`;
  const negated = Object.keys(RunOptions.fields).find((known) => `no${plain(known)}` === plain(key));
  if (negated !== undefined) return `unknown option; did you mean ${negated}: false?`;
  return 'unknown option';
}

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const valueAt = (input: unknown, path: readonly PropertyKey[]): unknown =>
  path.reduce<unknown>(
    (value, key) =>
      typeof value === 'object' && value !== null && Object.hasOwn(value, key)
        ? (value as Record<PropertyKey, unknown>)[key]
        : undefined,
    input,
  );

const showPath = (path: readonly PropertyKey[]): string =>
  path
    .map((key, i) => (typeof key === 'number' ? `[${key}]` : `${i === 0 ? '' : '.'}${escapeControls(String(key))}`))
    .join('');

/** @param where prefixed to each issue, e.g. the file; empty for none */
export function decodeOptions(input: unknown, where: string): Decoded {
  const prefix = where === '' ? '' : `${where}: `;
  if (!isRecord(input)) {
    return {
      options: {},
      issues: [`${prefix}expected a mapping of options, found ${showValue(input)}`],
      wrong: new Set(),
    };
  }
  const result = decode(input);
  if (Result.isSuccess(result)) return { options: result.success, issues: [], wrong: new Set() };

  const wrong = new Set<string>();
  const issues = listIssues(result.failure.issue).issues.map(({ path: segments, message }) => {
    const path = (segments ?? []).map((segment) => (typeof segment === 'object' ? segment.key : segment));
    wrong.add(String(path[0]));
    return message === ''
      ? `${prefix}${showPath(path)}: ${unknownKey(String(path[0]))}`
      : `${prefix}${showPath(path)}: expected ${message.replace(/^Expected /, '')}, found ${showValue(valueAt(input, path))}`;
  });
  // Decoding what is left lets the checks across options run, and their issues join these.
  const rest = Object.fromEntries(Object.entries(input).filter(([key]) => !wrong.has(key)));
  const right = decode(rest);
  return { options: Result.isSuccess(right) ? right.success : {}, issues, wrong };
}
