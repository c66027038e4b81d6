// YAML from strangers. The parser recurses once a level, and V8 can end the process when a regular expression is compiled on
// what is left of the stack (seen: "RegExpCompiler Allocation failed" after 200,000 of "- "): a stack overflow that nothing
// can catch. So the depth is measured first, on the concrete syntax, which is built without recursion. Comparing keys
// and formatting messages is quadratic in the size: the caller caps it.
import { type CST, LineCounter, Parser, parseDocument } from 'yaml';

/** Options are lists of scalars in one mapping: depth 2. */
const maxDepth = 16;
const maxIssues = 20;

/** Levels of nesting, or more than {@link maxDepth}. */
function measureDepth(text: string): number {
  let deepest = 0;
  for (const root of new Parser().parse(text)) {
    const waiting: { readonly token: CST.Token; readonly depth: number }[] = [{ token: root, depth: 0 }];
    for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
      const { token, depth } = next;
      if (depth > deepest) deepest = depth;
      if (deepest > maxDepth) return deepest;
      if ('value' in token && token.value) waiting.push({ token: token.value, depth });
      for (const item of 'items' in token ? token.items : []) {
        if (item.key) waiting.push({ token: item.key, depth: depth + 1 });
        if (item.value) waiting.push({ token: item.value, depth: depth + 1 });
      }
    }
  }
  return deepest;
}

/** The document as plain values, or one line for each mistake in it. Duplicate keys, tags and alias bombs are mistakes. */
export function parseYaml(text: string): { readonly value: unknown; readonly issues: readonly string[] } {
  if (measureDepth(text) > maxDepth) {
    return { value: null, issues: [`expected options, found more than ${maxDepth} levels of nesting`] };
  }
  const lineCounter = new LineCounter();
  const document = parseDocument(text, { prettyErrors: false, uniqueKeys: true, stringKeys: true, lineCounter });
  // An unknown tag is only a warning to the parser; here it is a mistake.
  const problems = [...document.errors, ...document.warnings];
  if (problems.length > 0) {
    const issues = problems.slice(0, maxIssues).map(({ message, pos }) => {
      const { line, col } = lineCounter.linePos(pos[0]);
      return `line ${line}, column ${col}: ${message.split('\n')[0]}`;
    });
    if (problems.length > maxIssues) issues.push(`and ${problems.length - maxIssues} more mistakes`);
    return { value: null, issues };
  }
  try {
    return { value: document.toJS({ maxAliasCount: 100 }), issues: [] };
  } catch (error) {
    return { value: null, issues: [error instanceof Error ? error.message : String(error)] };
  }
}
