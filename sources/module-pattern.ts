// The keys of PEFT's rank_pattern and alpha_pattern. PEFT matches a module path with re.match(rf"(.*\.)?({key})$"): the key is
// a regular expression for the whole path, or for what follows one of its dots. Keys come from strangers, so they are never
// run as regular expressions: plain keys are compared, others run as a set of states (Thompson 1968), which costs at most
// states x characters, out of a budget. What that cannot do (look-around, back references) is refused by name.
import { displayName } from './display-name.ts';

/** Steps that all patterns of one adapter may take: about a second. */
export interface PatternBudget {
  steps: number;
}

/** A second's worth, a thousand times what patterns seen in the wild need. */
export const newPatternBudget = (): PatternBudget => ({ steps: 50_000_000 });

/** Whether a module path is what the pattern means. @throws RangeError where the budget is spent */
export type ModulePattern = (path: string, budget: PatternBudget) => boolean;

/** What a state costs against comparing a few characters. */
const STATE_STEPS = 10;
const mostCharacters = 1000;
const mostParts = 10_000;
const mostDepth = 32;

type Test = (c: string) => boolean;

type Node =
  | { readonly kind: 'one'; readonly test: Test }
  | { readonly kind: 'start' | 'end' }
  | { readonly kind: 'all' | 'any'; readonly nodes: readonly Node[] }
  | { readonly kind: 'repeat'; readonly node: Node; readonly least: number; readonly most: number };

type State =
  | { readonly kind: 'one'; readonly test: Test; readonly next: number }
  | { readonly kind: 'start' | 'end'; readonly next: number }
  | { readonly kind: 'either'; readonly next: readonly number[] }
  | { readonly kind: 'match' };

/**
 * Compiles a key.
 * @throws RangeError that says what the pattern has and what is known
 */
export function modulePattern(key: string): ModulePattern {
  if (/^[\w.\-/:]+$/.test(key)) return (path, budget) => endsWithKey(path, key, budget);
  const states = compile(parse(key), key);
  return (path, budget) => runs(states, path, budget);
}

const spend = (budget: PatternBudget, steps: number): void => {
  budget.steps -= steps;
  if (budget.steps < 0) throw new RangeError('its patterns take too many steps to match');
};

/** A dot stands for any character, as in a regular expression. */
function endsWithKey(path: string, key: string, budget: PatternBudget): boolean {
  const from = path.length - key.length;
  spend(budget, 1 + (key.length >> 5));
  if (from < 0 || (from > 0 && path[from - 1] !== '.')) return false;
  for (let i = 0; i < key.length; i++) if (key[i] !== '.' && key[i] !== path[from + i]) return false;
  return true;
}

/** The pattern as a tree, by recursive descent. */
function parse(key: string): Node {
  if (key.length > mostCharacters) throw new RangeError(`found ${key.length} characters, at most ${mostCharacters}`);
  let at = 0;
  const refuse = (what: string): never => {
    throw new RangeError(
      `found ${what} at character ${at}; known are literals, . [ ] ( | ) * + ? {m,n} ^ $ and \\d \\w \\s`,
    );
  };
  const either = (depth: number): Node => {
    if (depth > mostDepth) refuse(`more than ${mostDepth} parentheses in each other`);
    const nodes = [sequence(depth)];
    while (key[at] === '|') {
      at++;
      nodes.push(sequence(depth));
    }
    return nodes.length === 1 ? nodes[0]! : { kind: 'any', nodes };
  };
  const sequence = (depth: number): Node => {
    const nodes: Node[] = [];
    while (at < key.length && key[at] !== '|' && key[at] !== ')') nodes.push(repeated(atom(depth)));
    return { kind: 'all', nodes };
  };
  const atom = (depth: number): Node => {
    const c = key[at++]!;
    if (c === '(') {
      if (key.startsWith('?:', at)) at += 2;
      else if (key[at] === '?') refuse('(?');
      const inner = either(depth + 1);
      if (key[at++] !== ')') refuse('no ) for a (');
      return inner;
    }
    if (c === '.') return { kind: 'one', test: (d) => d !== '\n' };
    if (c === '^') return { kind: 'start' };
    if (c === '$') return { kind: 'end' };
    if (c === '[') return { kind: 'one', test: set() };
    if (c === '\\') return { kind: 'one', test: escaped() };
    if ('*+?{'.includes(c)) return refuse(`${c} with nothing before it`);
    return { kind: 'one', test: (d) => d === c };
  };
  const escaped = (): Test => {
    const c = key[at++];
    if (c === undefined) return refuse('\\ at the end');
    const known = classes[c];
    if (known !== undefined) return known;
    return /[A-Za-z0-9]/.test(c) ? refuse(`\\${c}`) : (d) => d === c;
  };
  const set = (): Test => {
    const negated = key[at] === '^';
    if (negated) at++;
    const tests: Test[] = [];
    for (let first = true; first || key[at] !== ']'; first = false) {
      const c = key[at++];
      if (c === undefined) return refuse('no ] for a [');
      if (c === '\\') tests.push(escaped());
      else if (key[at] === '-' && key[at + 1] !== undefined && key[at + 1] !== ']') {
        const last = key[at + 1]!;
        at += 2;
        tests.push((d) => d >= c && d <= last);
      } else tests.push((d) => d === c);
    }
    at++;
    return (d) => tests.some((test) => test(d)) !== negated;
  };
  const repeated = (node: Node): Node => {
    const bounds = /^(?:[*+?]|\{(\d{0,4})(?:(,)(\d{0,4}))?\})/.exec(key.slice(at, at + 12));
    if (bounds === null) return key[at] === '{' ? refuse('{') : node;
    at += bounds[0].length;
    // Lazy ones match the same paths.
    if (key[at] === '?') at++;
    if (at < key.length && '*+{'.includes(key[at]!)) refuse(`${key[at]} after a repetition`);
    const [sign, least = '', comma, most = ''] = bounds;
    if (sign === '*') return { kind: 'repeat', node, least: 0, most: Infinity };
    if (sign === '+') return { kind: 'repeat', node, least: 1, most: Infinity };
    if (sign === '?') return { kind: 'repeat', node, least: 0, most: 1 };
    if (least === '' && most === '') refuse(sign);
    const from = Number(least);
    const to = comma === undefined ? from : most === '' ? Infinity : Number(most);
    return from > to ? refuse(sign) : { kind: 'repeat', node, least: from, most: to };
  };
  const tree = either(0);
  return at < key.length ? refuse(') without a (') : tree;
}

const digit: Test = (c) => c >= '0' && c <= '9';
const word: Test = (c) => /\w/.test(c);
const space: Test = (c) => /\s/.test(c);
const classes: Readonly<Record<string, Test>> = Object.assign(Object.create(null) as Record<string, Test>, {
  d: digit,
  D: (c: string) => !digit(c),
  w: word,
  W: (c: string) => !word(c),
  s: space,
  S: (c: string) => !space(c),
});

/** States in an array, the last one the match; `next` are places in it. The first one is where a match begins. */
function compile(tree: Node, key: string): { readonly states: readonly State[]; readonly first: number } {
  const states: State[] = [{ kind: 'match' }];
  let built = 0;
  const add = (state: State): number => states.push(state) - 1;
  // Built from the end: what a part leads to is known when it is made.
  const build = (node: Node, next: number): number => {
    // Parts, not states: repetitions of nothing make none.
    if (++built > mostParts)
      throw new RangeError(`found ${displayName(key)}, which stands for more than ${mostParts} parts`);
    switch (node.kind) {
      case 'one':
        return add({ kind: 'one', test: node.test, next });
      case 'start':
      case 'end':
        return add({ kind: node.kind, next });
      case 'all':
        return node.nodes.reduceRight((after, part) => build(part, after), next);
      case 'any':
        return add({ kind: 'either', next: node.nodes.map((part) => build(part, next)) });
      case 'repeat': {
        let after = next;
        if (node.most === Infinity) {
          const turn: number[] = [next];
          after = add({ kind: 'either', next: turn });
          turn.push(build(node.node, after));
        } else
          for (let i = node.least; i < node.most; i++)
            after = add({ kind: 'either', next: [next, build(node.node, after)] });
        for (let i = 0; i < node.least; i++) after = build(node.node, after);
        return after;
      }
    }
  };
  const first = build(tree, 0);
  return { states, first };
}

/** All states at once, character by character; a match may begin at the start and after every dot. */
function runs(
  { states, first }: { readonly states: readonly State[]; readonly first: number },
  path: string,
  budget: PatternBudget,
): boolean {
  let current = new Set<number>();
  for (let at = 0; ; at++) {
    const todo = [...current];
    if (at === 0 || path[at - 1] === '.') todo.push(first);
    const reached = new Set<number>();
    for (let state = todo.pop(); state !== undefined; state = todo.pop()) {
      if (reached.has(state)) continue;
      reached.add(state);
      const { kind, ...known } = states[state]!;
      if (kind === 'either') todo.push(...(known as { next: readonly number[] }).next);
      else if ((kind === 'start' && at === 0) || (kind === 'end' && at === path.length))
        todo.push((known as { next: number }).next);
    }
    spend(budget, STATE_STEPS * (1 + reached.size));
    if (at === path.length) return reached.has(0);
    current = new Set();
    for (const state of reached) {
      const known = states[state]!;
      if (known.kind === 'one' && known.test(path[at]!)) current.add(known.next);
    }
  }
}
