import { expect, test } from 'vitest';
import { displayName, displayPath } from '../../sources/display-name.ts';
import { SourceMalformed } from '../../sources/errors.ts';

test.each([
  ['model.layers.0.weight', 'model.layers.0.weight'],
  ['é 𝕏', 'é 𝕏'],
  ['', '""'],
  ['\u001b[2J', '\\u{1b}[2J'],
  ['a\r\nb\0', 'a\\u{d}\\u{a}b\\u{0}'],
  ['\u009b\u202e\u200b\u2028\ufeff', '\\u{9b}\\u{202e}\\u{200b}\\u{2028}\\u{feff}'],
  ['\ud800', '\\u{d800}'],
  ['\\u{1b}', '\\\\u{1b}'],
])('%j', (name, shown) => expect(displayName(name)).toBe(shown));

test('long names keep their start and end', () => {
  const shown = displayName(`start${'x'.repeat(1e6)}end`);
  expect(shown).toMatch(/^start.*end \(1000008 characters\)$/);
  expect(shown.length).toBeLessThan(160);
});

test('paths in messages are escaped too', () => {
  const error = new SourceMalformed({ path: 'a\u001b[2J/C:\\b', rule: 'r', detail: 'd' });
  expect(error.message).toBe('a\\u{1b}[2J/C:\\b: d [r]');
  expect(displayPath('/a b/é')).toBe('/a b/é');
});
