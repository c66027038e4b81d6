// Event files are decoded by protobuf's own protoc, and their checksums by a CRC32C of the test's own (unframe.py).

import { readdirSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';
import type { LoggedEvent, TelemetryEvent } from '../../../pipeline/telemetry.ts';
import { slotTag } from '../../../sinks/slot-tag.ts';
import { crc32c } from '../../../sinks/tensorboard/crc32c.ts';
import { EventFile } from '../../../sinks/tensorboard/event-file.ts';
import { ProtoMessage } from '../../../sinks/tensorboard/proto-message.ts';
import { fileVersion, SlotSummaries, sessionStart } from '../../../sinks/tensorboard/slot-summaries.ts';
import { block, done, slots, summaryOf } from '../sample-events.ts';
import { useTestFolder } from '../test-folder.ts';
import { hasProtoc, inner, type Message, only, readEvents, shownOf } from './read-event-files.ts';

const folder = useTestFolder();
afterEach(() => void vi.restoreAllMocks());

const logged = (event: TelemetryEvent, seq = 0): LoggedEvent => ({
  ...event,
  seq,
  time: new Date(1_700_000_000_250 + 1e3 * seq).toISOString(),
});

async function written(events: readonly LoggedEvent[], now?: number): Promise<string> {
  const file = await EventFile.create(folder.path, now);
  const summaries = new SlotSummaries();
  await file.append([fileVersion(1), sessionStart(1), ...events.flatMap((event) => summaries.of(event))]);
  await file.close();
  return file.path;
}

// RFC 3720, appendix B.4.
it.each([
  ['32 zeros', Buffer.alloc(32), 0x8a9136aa],
  ['32 ones', Buffer.alloc(32, 0xff), 0x62a8ab43],
  ['32 ascending', Buffer.from(Array.from({ length: 32 }, (_, i) => i)), 0x46dd794e],
  ['32 descending', Buffer.from(Array.from({ length: 32 }, (_, i) => 31 - i)), 0x113fdb5c],
  ['digits', Buffer.from('123456789'), 0xe3069283],
])('CRC32C of %s', (_, bytes, expected) => {
  expect(crc32c(bytes)).toBe(expected);
});

describe.runIf(hasProtoc)('an event file', () => {
  it('begins with its version and a session, and holds every number of every slot', async () => {
    const [first, second] = [
      logged(block({ modelsSeen: 32, slots: [slots[0]!] })),
      logged(block({ modelsSeen: 64 }), 1),
    ];
    const path = await written([first, second]);
    const events = readEvents(path);
    expect(only(events[0]!, 'file_version')).toBe('brain.Event:2');
    expect(inner(events[1]!, 'session_log')).toEqual({ status: ['START'] });
    const shown = shownOf(folder.path);
    for (const slot of slots) {
      const named = {
        evr_1: 'evr@1',
        evr_4: 'evr@4',
        evr_16: 'evr@16',
        evr_k: 'evr@k',
        components_90: 'components@90',
      };
      for (const field of [
        'evr_1',
        'evr_4',
        'evr_16',
        'evr_k',
        'drift',
        'captured',
        'mean_only',
        'components_90',
      ] as const) {
        const tag = `${(named as Readonly<Record<string, string>>)[field] ?? field}/${slot.slot}`;
        const last = shown.get(tag)?.at(-1);
        // float32 is what a scalar holds.
        if (slot[field] === null) expect(last, tag).toBeUndefined();
        else expect(Math.fround(last!.value as number), tag).toBe(Math.fround(slot[field]));
        if (last !== undefined) expect([last.step, last.wallTime]).toEqual([64, 1_700_000_001.25]);
      }
    }
    expect(shown.get(`evr@1/${slots[0]!.slot}`)!.map(({ step }) => step)).toEqual([32, 64]);
  });

  it('shows a spectrum as a histogram: component j from j - 0.5 to j + 0.5, as high as its share', async () => {
    const scree = [0.5, 0.25, 0.125];
    await written([logged(block({ modelsSeen: 7, slots: [{ ...slots[0]!, scree }] }))]);
    const [point] = shownOf(folder.path).get(`spectrum/${slots[0]!.slot}`)!;
    const { bucket, bucket_limit, min, max, num, sum, sum_squares } = point!.value as Message;
    expect([min, max, num].map(Number)).toEqual([0.5, 3.5, 0.875]);
    expect([sum, sum_squares].map(Number)).toEqual([0.5 + 0.5 + 0.375, 0.5 + 1 + 1.125]);
    expect(bucket!.map(Number)).toEqual(scree);
    expect(bucket_limit!.map(Number)).toEqual([1.5, 2.5, 3.5]);
  });

  it('says once what a metric is', async () => {
    const path = await written([0, 1, 2].map((i) => logged(block({ modelsSeen: i + 1 }), i)));
    const described = readEvents(path)
      .flatMap((event) => (inner(event, 'summary').value ?? []) as readonly Message[])
      .filter((value) => value.metadata !== undefined)
      .map((value) => only(value, 'tag'));
    expect(described).toHaveLength(new Set(described).size);
    expect(new Set(described)).toEqual(new Set(shownOf(folder.path).keys()));
  });

  it('takes from the end of a run what blocks have not told: other modes, and engines that know nothing before', async () => {
    const told = summaryOf(slots[0]!.slot, { models: 64, evr_1: 0.123 });
    const rows = summaryOf(slots[0]!.slot, { models: 64, mode: 'rows', evr_1: 0.25 });
    const untold = summaryOf('late', { models: 60, evr_1: 0.375 });
    await written([logged(block({ modelsSeen: 64 })), logged(done({ slots: [told, rows, untold] }), 1)]);
    const shown = shownOf(folder.path);
    const first = (tag: string) => shown.get(tag)?.map(({ step, value }) => [step, value]);
    expect(first(`evr@1/${slots[0]!.slot}`)).toHaveLength(1);
    expect(first(`evr@1 rows/${slots[0]!.slot}`)).toEqual([[64, 0.25]]);
    expect(first('evr@1/late')).toEqual([[60, 0.375]]);
  });

  it('begins anew where a run that was extended reads all models again', async () => {
    const events = [32, 64, 32, 64, 96].map((modelsSeen, i) => logged(block({ modelsSeen }), i));
    await written(events);
    const points = shownOf(folder.path).get(`evr@1/${slots[0]!.slot}`)!;
    expect(points.map(({ step }) => step)).toEqual([32, 64, 96]);
    expect(points[0]!.wallTime).toBe(1_700_000_002.25);
  });

  it('splits a block of many slots over records', async () => {
    const nothing = { evr_4: null, evr_16: null, evr_k: null, captured: null, mean_only: null, components_90: null };
    const many = Array.from({ length: 520 }, (_, i) => ({ ...slots[0]!, ...nothing, scree: [], slot: `layer.${i}` }));
    const path = await written([logged(block({ slots: many }))]);
    expect(readEvents(path)).toHaveLength(2 + 2);
    expect([...shownOf(folder.path).keys()].filter((tag) => tag.startsWith('drift/'))).toHaveLength(520);
  });

  it('of a run that goes on comes after the others, whatever the clock says, and replaces what they tell', async () => {
    const now = 1_700_000_000_000;
    await written([logged(block({ modelsSeen: 32 })), logged(block({ modelsSeen: 64 }), 1)], now);
    await written([logged(block({ modelsSeen: 32 }))], now - 5_000_000);
    await written([logged(block({ modelsSeen: 32 })), logged(block({ modelsSeen: 48 }), 1)], now);
    const names = readdirSync(folder.path).toSorted();
    expect(names.map((name) => Number(name.split('.')[3]) - now / 1e3)).toEqual([0, 1, 2]);
    expect(
      shownOf(folder.path)
        .get(`evr@1/${slots[0]!.slot}`)!
        .map(({ step }) => step),
    ).toEqual([32, 48]);
  });

  it('that cannot be written to is cut back to its last whole record', async () => {
    const file = await EventFile.create(folder.path);
    await file.append([fileVersion(1), sessionStart(1)]);
    const probe = await open(file.path, 'r');
    const prototype = Object.getPrototypeOf(probe) as FileHandle;
    await probe.close();
    const real = prototype.writeFile;
    vi.spyOn(prototype, 'writeFile').mockImplementation(async function (this: FileHandle, data) {
      await real.call(this, (data as Buffer).subarray(0, 21));
      throw Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' });
    });
    const records = new SlotSummaries().of(logged(block()));
    await expect(file.append(records)).rejects.toThrow('ENOSPC');
    await file.close();
    expect(readEvents(file.path)).toHaveLength(2);
  });

  it('has names from strangers as they are, but for what is hostile: no two share a tag', async () => {
    const hostile = [
      '\x1b[2J\x07',
      'q\x1b',
      'q\\x1b',
      '',
      '\u202eevil',
      '__proto__',
      'a\nb',
      'a\\nb',
      '\ud800',
      '\ud801',
      'é漢🙂',
      '../../x',
      '<b>',
      'x'.repeat(5e5),
      `${'x'.repeat(5e5)}y`,
      '/',
      'a/b',
    ];
    await written([logged(block({ slots: hostile.map((slot) => ({ ...slots[0]!, slot })) }))]);
    const tags = [...shownOf(folder.path).keys()].filter((tag) => tag.startsWith('drift/')).map((tag) => tag.slice(6));
    expect(new Set(tags).size).toBe(hostile.length);
    expect(tags).toEqual(expect.arrayContaining(['__proto__', 'é漢🙂', '../../x', '<b>', 'a/b', '/', 'a\\nb']));
    // biome-ignore lint/suspicious/noControlCharactersInRegex: what must not be there
    for (const tag of tags) expect(tag).not.toMatch(/[\x00-\x1f\x7f\u202a-\u202e\ufffd]/);
    for (const tag of tags) expect(tag.length).toBeLessThanOrEqual(209);
  });

  it('keeps steps, times and texts of any size', async () => {
    const any = fc.record({
      step: fc.maxSafeNat(),
      wall: fc.double({ noNaN: true, noDefaultInfinity: true }),
      tag: fc.string({ unit: 'grapheme', maxLength: 300 }),
    });
    const all = fc.sample(any, { numRuns: 200, seed: 5 });
    const file = await EventFile.create(folder.path);
    await file.append(
      all.map(({ step, wall, tag }) => {
        const value = new ProtoMessage().bytes(1, tag).float(2, 1);
        const summary = new ProtoMessage().bytes(1, value.written);
        return new ProtoMessage().double(1, wall).integer(2, step).bytes(5, summary.written).written;
      }),
    );
    await file.close();
    const read = readEvents(file.path).map((event) => ({
      step: Number(only(event, 'step')),
      wall: Number(only(event, 'wall_time')),
      tag: ((inner(inner(event, 'summary'), 'value').tag ?? [''])[0] as string) ?? '',
    }));
    expect(read).toEqual(all.map(({ step, wall, tag }) => ({ step, wall, tag })));
  });
});

it.each([
  ['', /^~[0-9a-f]{8}$/],
  ['layer.0.weight', /^layer\.0\.weight$/],
])('the tag of %j', (name, expected) => {
  expect(slotTag(name)).toMatch(expected);
});
