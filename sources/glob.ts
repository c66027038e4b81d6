// Globs over paths and slot names: `*` and `?` stay within one part between slashes, `**` crosses them, `[a-z]` and `[!a-z]`
// are one character, `{a,b}` is either, `\` takes the next character as it is. Dots are nothing special: `*` in a slot name
// crosses them. Patterns run as a set of states, so no pattern is slow: names come from strangers (cost: pattern x name).

type Token =
  | { readonly kind: 'one'; readonly test: (c: string) => boolean }
  | { readonly kind: 'star' | 'any' | 'folders' };

/** Whether the text means more than itself as a glob. */
export const isGlob = (text: string): boolean => /[*?[{]/.test(text);

/**
 * Compiles a glob.
 *
 * @throws RangeError where its braces stand for more than 1,024 patterns
 */
export function globMatcher(pattern: string): (name: string) => boolean {
  const alternatives = expandBraces(pattern).map(tokens);
  return (name) => {
    const characters = Array.from(name);
    return alternatives.some((alternative) => matches(alternative, characters));
  };
}

/** The patterns without braces that a pattern stands for; a brace without its partner is itself. */
export function expandBraces(pattern: string): readonly string[] {
  const done: string[] = [];
  const todo = [pattern];
  for (let next = todo.pop(); next !== undefined; next = todo.pop()) {
    const parts = firstBrace(next);
    if (parts === undefined) done.push(next);
    else for (const option of parts.options.reverse()) todo.push(parts.before + option + parts.after);
    if (done.length + todo.length > 1024)
      throw new RangeError(`the braces of ${pattern} stand for more than 1,024 patterns`);
  }
  return done;
}

function firstBrace(pattern: string): { before: string; options: string[]; after: string } | undefined {
  for (let open = 0; open < pattern.length; open++) {
    if (pattern[open] === '\\') open++;
    else if (pattern[open] === '{') {
      const options: string[] = [];
      let depth = 0;
      let start = open + 1;
      for (let i = start; i < pattern.length; i++) {
        const c = pattern[i];
        if (c === '\\') i++;
        else if (c === '{') depth++;
        else if (c === ',' && depth === 0) {
          options.push(pattern.slice(start, i));
          start = i + 1;
        } else if (c === '}' && depth-- === 0) {
          options.push(pattern.slice(start, i));
          if (options.length > 1) return { before: pattern.slice(0, open), options, after: pattern.slice(i + 1) };
          break;
        }
      }
    }
  }
  return undefined;
}

function tokens(pattern: string): readonly Token[] {
  const list: Token[] = [];
  const characters = Array.from(pattern);
  for (let i = 0; i < characters.length; i++) {
    const c = characters[i]!;
    if (c === '*' && characters[i + 1] === '*') {
      const atStart = i === 0 || characters[i - 1] === '/';
      while (characters[i + 1] === '*') i++;
      if (atStart && characters[i + 1] === '/') {
        i++;
        list.push({ kind: 'folders' });
      } else list.push({ kind: 'any' });
    } else if (c === '*') list.push({ kind: 'star' });
    else if (c === '?') list.push({ kind: 'one', test: (x) => x !== '/' });
    else if (c === '[' && closing(characters, i) > 0) {
      const end = closing(characters, i);
      list.push({ kind: 'one', test: characterClass(characters.slice(i + 1, end)) });
      i = end;
    } else {
      const literal = c === '\\' ? (characters[++i] ?? '\\') : c;
      list.push({ kind: 'one', test: (x) => x === literal });
    }
  }
  return list;
}

/** Where the class that opens at `open` ends; a `]` that stands first is a member. */
function closing(characters: readonly string[], open: number): number {
  const first = characters[open + 1];
  return characters.indexOf(']', open + (first === '!' || first === '^' ? 3 : 2));
}

function characterClass(members: readonly string[]): (c: string) => boolean {
  const negated = members[0] === '!' || members[0] === '^';
  const ranges: [number, number][] = [];
  for (let i = negated ? 1 : 0; i < members.length; i++) {
    const low = members[i]!.codePointAt(0)!;
    if (members[i + 1] === '-' && i + 2 < members.length) {
      i += 2;
      ranges.push([low, members[i]!.codePointAt(0)!]);
    } else ranges.push([low, low]);
  }
  return (c) => {
    const point = c.codePointAt(0)!;
    return c !== '/' && ranges.some(([low, high]) => low <= point && point <= high) !== negated;
  };
}

function matches(pattern: readonly Token[], name: readonly string[]): boolean {
  let states = new Uint8Array(pattern.length + 1);
  // A wildcard that is entered may also be left at once; one that stays after a `/` inside `**/` may not.
  const enter = (into: Uint8Array, state: number): void => {
    for (let i = state; ; i++) {
      into[i] = 1;
      if (i === pattern.length || pattern[i]!.kind === 'one') return;
    }
  };
  enter(states, 0);
  for (const c of name) {
    const next = new Uint8Array(pattern.length + 1);
    for (const [i, token] of pattern.entries()) {
      if (states[i] === 0) continue;
      if (token.kind === 'one') {
        if (token.test(c)) enter(next, i + 1);
      } else if (token.kind === 'folders') {
        next[i] = 1;
        if (c === '/') enter(next, i + 1);
      } else if (token.kind === 'any' || c !== '/') enter(next, i);
    }
    states = next;
  }
  return states[pattern.length] === 1;
}
