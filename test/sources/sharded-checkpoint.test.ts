// The rules of the index file itself; those that need shards on disk are in read-model-header.test.ts.
import { expect, test } from 'vitest';
import { SourceMalformed } from '../../sources/errors.ts';
import { parseShardIndex } from '../../sources/sharded-checkpoint.ts';

const parse = (json: string): ReadonlyMap<string, string> => parseShardIndex(Buffer.from(json), 'index.json');
const s = '"s.safetensors"';

test.each([
  ['I5 no weight_map', '{}', 'weight-map'],
  ['I5 an empty weight_map', '{"weight_map":{}}', 'weight-map'],
  ['I5 weight_map an array', '{"weight_map":[]}', 'weight-map'],
  ['I5 weight_map null', '{"weight_map":null}', 'weight-map'],
  ['I5 a value that is a number', '{"weight_map":{"a":1}}', 'weight-map'],
  ['I5 a value that is null', '{"weight_map":{"a":null}}', 'weight-map'],
  ['I5 a value that is a list', `{"weight_map":{"a":[${s}]}}`, 'weight-map'],
  ['I5 weight_map twice', `{"weight_map":{"a":${s}},"weight_map":{"b":${s}}}`, 'duplicate-key'],
  ['I5 a tensor twice', `{"weight_map":{"a":${s},"\\u0061":${s}}}`, 'duplicate-key'],
  ['an array on top', '[]', 'not-an-object'],
  ['an empty file', '', 'not-an-object'],
  ['garbage after the JSON', `{"weight_map":{"a":${s}}}}`, 'trailing-json'],
  ['a byte order mark', `\ufeff{"weight_map":{"a":${s}}}`, 'bom'],
  ['I7 nesting of 66', `{"x":${'['.repeat(66)}${']'.repeat(66)},"weight_map":{"a":${s}}}`, 'json-depth'],
  ['I8 total_size a string', `{"metadata":{"total_size":"12"},"weight_map":{"a":${s}}}`, 'total-size'],
  ['I8 total_size NaN', `{"metadata":{"total_size":NaN},"weight_map":{"a":${s}}}`, 'total-size'],
  ['metadata not an object', `{"metadata":[],"weight_map":{"a":${s}}}`, 'metadata'],
  ['a value that is no JSON', `{"x":undefined,"weight_map":{"a":${s}}}`, 'json'],
  ['a number that is no JSON', `{"x":01,"weight_map":{"a":${s}}}`, 'json'],
])('%s', (_, json, rule) => {
  const error = (() => {
    try {
      return parse(json);
    } catch (thrown) {
      return thrown;
    }
  })();
  expect(error).toBeInstanceOf(SourceMalformed);
  expect((error as SourceMalformed).rule).toBe(rule);
});

test('what else the index says does not matter', () => {
  const index = `{"metadata":{"total_size":1.5e9,"x":[{"y":null}]},"v":"text","z":[true,false,-1e-3],"weight_map":{"a":${s},"__proto__":${s}}}`;
  expect([...parse(index)]).toEqual([
    ['a', 's.safetensors'],
    ['__proto__', 's.safetensors'],
  ]);
});
