// The page as a person sees it, in Chromium: a run that goes on, a connection that is cut, a run that is over, names from
// strangers, and each of the states.
import { existsSync, readFileSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import type { Page } from 'playwright-core';
import { describe, expect, it, onTestFinished } from 'vitest';
import { RunTables } from '../../watch/server/run-tables.ts';
import { root, runCli, startCli, temporaryFolder } from '../pipeline/cli-process.ts';
import { writeSafetensors } from '../sources/write-safetensors.ts';
import { hasChromium, openPage } from './chromium.ts';
import { serve, wireTo } from './served.ts';
import { blockOf, failed, plan, progressOf, stopped, WatchedRun } from './watched-run.ts';

const until = (page: Page, state: string): Promise<unknown> =>
  page.waitForFunction((wanted) => document.documentElement.dataset.state === wanted, state);

const pointsOf = (page: Page, chart: string): Promise<number> =>
  page.evaluate(
    (name) => Number(document.querySelector<HTMLElement>(`[data-chart="${name}"]`)?.dataset.points ?? -1),
    chart,
  );

/** The models seen at each block, as the page tells them. */
const blocksShown = async (page: Page): Promise<number[]> => {
  await page.locator('[data-part="curves"]').evaluate((part) => part.setAttribute('open', ''));
  await page.waitForSelector('[data-part="curves"] tbody tr');
  return (await page.locator('[data-part="curves"] tbody th').allTextContents()).map(Number);
};

const zoo = async (...options: readonly string[]): Promise<string> => {
  const out = join(temporaryFolder(), 'zoo');
  const { code } = await runCli([
    'run',
    join(root, 'examples/zoo/full'),
    '--rank',
    '8',
    '--block',
    '2',
    '--out',
    out,
    '--quiet',
    ...options,
  ]);
  expect(code).toBe(0);
  return out;
};

/** Resolves when the run has told of that many blocks. */
const blocksToldOf = async (run: string, count: number): Promise<void> => {
  const path = join(run, 'events.ndjson');
  const told = (): number => (existsSync(path) ? readFileSync(path, 'utf8').split('"type":"block"').length - 1 : 0);
  while (told() < count) await new Promise((resolve) => setTimeout(resolve, 5));
};

/** Small models in many blocks: a run of some seconds that can be stopped and let go on. */
const writeMany = (count: number): string => {
  const folder = join(temporaryFolder(), 'models');
  for (let model = 0; model < count; model++) {
    const tensors = Array.from({ length: 6 }, (_, layer) => ({
      name: `h.${layer}.weight`,
      dtype: 'F32',
      shape: [32, 64],
      data: Float32Array.from({ length: 2048 }, (_, i) => Math.sin((model + 1) * (i + 1) * (layer + 1))),
    }));
    writeSafetensors(join(folder, String(model).padStart(4, '0'), 'model.safetensors'), tensors);
  }
  return folder;
};

interface AxeResult {
  readonly violations: readonly {
    readonly id: string;
    readonly impact: string;
    readonly nodes: readonly { readonly html: string }[];
  }[];
}

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** What axe-core finds that is serious or worse. */
const seriousIn = async (page: Page): Promise<readonly string[]> => {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() =>
    (globalThis as unknown as { axe: { run(): Promise<AxeResult> } }).axe.run(),
  );
  return violations
    .filter(({ impact }) => impact === 'serious' || impact === 'critical')
    .map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`);
};

describe.skipIf(!hasChromium)('the page', () => {
  it('shows a live run grow, through a cut connection and a server that begins again, and its end', async () => {
    const out = join(temporaryFolder(), 'run');
    const server = await serve(out);
    const wire = await wireTo(server.url);
    const page = await openPage(wire.url);
    await until(page, 'waiting');
    const run = startCli([
      'run',
      writeMany(600),
      '--out',
      out,
      '--rank',
      '4',
      '--block',
      '2',
      '--threads',
      '1',
      '--quiet',
    ]);
    onTestFinished(() => void run.child.kill('SIGKILL'));
    await blocksToldOf(out, 5);
    run.child.kill('SIGSTOP');
    await until(page, 'running');
    await page.locator('a.cell').first().click();
    await page.waitForSelector('[data-chart="evr"] canvas');
    await page.waitForFunction(
      () => Number(document.querySelector<HTMLElement>('[data-chart="evr"]')?.dataset.points) > 0,
    );
    const before = await pointsOf(page, 'evr');

    wire.cut();
    await page.waitForFunction(() => document.documentElement.dataset.link === 'lost');
    run.child.kill('SIGCONT');
    await blocksToldOf(out, before + 20);
    run.child.kill('SIGSTOP');
    wire.mend();
    await page.waitForFunction(() => document.documentElement.dataset.link === 'open');
    await page.waitForFunction(
      (least) => Number(document.querySelector<HTMLElement>('[data-chart="evr"]')?.dataset.points) > least,
      before,
    );
    expect(wire.asked.some((text) => /^last-event-id: \d+-\d+\r$/im.test(text))).toBe(true);
    const afterCut = await blocksShown(page);
    expect(afterCut).toEqual(afterCut.map((_, i) => 2 * (i + 1)));

    server.kill();
    await page.waitForFunction(() => document.documentElement.dataset.link === 'lost');
    run.child.kill('SIGCONT');
    await serve(out, ['--port', new URL(server.url).port]);
    await until(page, 'finished');
    expect((await run.ended).code).toBe(0);
    await page.waitForFunction(
      () => Number(document.querySelector<HTMLElement>('[data-chart="evr"]')?.dataset.points) === 300,
    );
    const all = await blocksShown(page);
    const convergence = (await new RunTables(out).rowsOfSlot('convergence', 0)).map(({ models_seen }) =>
      Number(models_seen),
    );
    expect(all).toEqual(convergence);
    expect(new Set(all).size).toBe(300);
    // The models come with the tables.
    await page.waitForFunction(
      () => document.querySelector<HTMLElement>('[data-chart="models"]')?.dataset.points === '600',
    );
  });

  it('shows a run beside itself with --watch, and keeps what it has when the server has gone', async () => {
    const out = join(temporaryFolder(), 'run');
    const run = startCli([
      'run',
      writeMany(400),
      '--out',
      out,
      '--rank',
      '4',
      '--block',
      '2',
      '--threads',
      '1',
      '--quiet',
      '--watch',
    ]);
    onTestFinished(() => void run.child.kill('SIGKILL'));
    let text = '';
    run.child.stderr!.on('data', (part: string) => {
      text += part;
    });
    await run.seen('stderr', '/\n');
    const page = await openPage(/http:\S+/.exec(text)![0]);
    await until(page, 'finished');
    expect((await run.ended).code).toBe(0);
    await page.waitForFunction(() => document.documentElement.dataset.link === 'lost');
    expect(await page.locator('.link').textContent()).toContain('what is shown stays');
    expect(await page.locator('a.cell').count()).toBe(6);
  });

  it('replays a finished run', async () => {
    const out = await zoo();
    const page = await openPage((await serve(out)).url);
    await until(page, 'finished');
    const tables = new RunTables(out);
    const slots = (await tables.rows('slots')).filter(({ status }) => status === 'used');
    const spectrum = await tables.rows('spectrum');
    expect(await page.locator('a.cell').count()).toBe(slots.length);
    for (const { slot_id, name } of slots.slice(0, 6)) {
      const evr = spectrum.filter((row) => row.slot_id === slot_id).reduce((sum, row) => sum + Number(row.evr), 0);
      const label = await page.locator(`a.cell[data-slot="${slot_id}"]`).getAttribute('aria-label');
      expect(label).toBe(`${name}: EVR at k ${evr.toFixed(2).replace(/^0/, '')}, not settled`);
    }
    await page.goto(`${page.url().split('#')[0]}#/slot/4`);
    await page.waitForFunction(
      () => document.querySelector<HTMLElement>('[data-chart="models"]')?.dataset.points === '14',
    );
    expect(await pointsOf(page, 'scree')).toBe(8);
    expect(await blocksShown(page)).toEqual([2, 4, 6, 8, 10, 12, 14]);
    await page.locator('[data-chart="evr"] .u-over').hover();
    const readout = page.locator('[data-chart="evr"] .readout');
    expect(await readout.textContent()).toMatch(/^models seen: \d+EVR 1: 0\.\d+EVR 4: 0\.\d+/);
    await page.locator('h2').hover();
    expect(await readout.isHidden()).toBe(true);
    await page.locator('.scatter canvas').focus();
    await page.keyboard.press('ArrowRight');
    expect(await page.locator('.said').textContent()).toMatch(
      /^000-pixperm-mod3: .* on component 1, .* on component 2$/,
    );
    await page.keyboard.press('ArrowLeft');
    expect(await page.locator('.said').textContent()).toMatch(
      /^013-shift-relabel: .*, captured 0\.\d+ when it arrived$/,
    );
  });

  it('can be used with the keyboard alone, and sorted and filtered', async () => {
    const page = await openPage((await serve(await zoo())).url);
    await until(page, 'finished');
    await page.keyboard.press('/');
    await page.keyboard.type('key');
    expect(await page.locator('a.cell').count()).toBe(3);
    await page.locator('a.cell').first().focus();
    await page.keyboard.press('ArrowRight');
    await page.keyboard.press('Enter');
    await page.waitForSelector('.slot-name');
    expect(await page.locator('.slot-name').textContent()).toBe('vit.encoder.layer.1.attention.attention.key.weight');
    await page.keyboard.press('Escape');
    await page.waitForSelector('.overview');
    await page.locator('#filter').fill('');
    await page.getByRole('button', { name: 'Table' }).click();
    await page.getByRole('button', { name: 'captured' }).click();
    const captured = (await page.locator('tbody td:nth-child(10)').allTextContents()).map(Number);
    expect(captured).toHaveLength(22);
    expect(captured).toEqual(captured.toSorted((a, b) => b - a));
    await page.locator('#filter').fill('settled');
    expect(await page.locator('.notice').textContent()).toBe('No slot fits the filter.');
    await page.locator('#filter').fill('not settled');
    expect(await page.locator('tbody tr').count()).toBe(22);
  });

  it('shows names of strangers as text, on the page and in the report', async () => {
    const folder = temporaryFolder();
    const attack = '<img src=x onerror="hacked=1">';
    const names = [
      attack,
      'h.0.</th><script>hacked=1</script>',
      'h.1.</th><script>hacked=1</script>',
      '__proto__',
      '\u202egnp.exe',
      'a\u0007\u001b[31m',
      "'><svg onload=hacked=1>",
    ];
    const models = ['<b>bold', '"><svg onload=hacked=1>', "javascript:'", '__proto__'];
    models.forEach((model, j) => {
      const tensors = names.map((name, k) => ({
        name,
        dtype: 'F32',
        shape: [4, 8],
        data: Float32Array.from({ length: 32 }, (_, i) => Math.sin((j + 1) * (i + 1) * (k + 1))),
      }));
      writeSafetensors(join(folder, 'models', model, 'model.safetensors'), tensors);
    });
    const out = join(folder, '<i>run');
    expect(await runCli(['run', join(folder, 'models'), '--out', out, '--quiet', '--block', '2'])).toMatchObject({
      code: 0,
    });
    const file = join(folder, 'report.html');
    expect(await runCli(['report', out, '-o', file])).toMatchObject({ code: 0 });

    const strange = (page: Page): Promise<unknown> =>
      page.evaluate(() => [
        'hacked' in globalThis,
        document.querySelectorAll('body img, body script, main svg[onload], b, i').length,
        ['\u202e', '\u0007', '\u001b'].some((one) => document.body.textContent?.includes(one)),
      ]);
    const page = await openPage((await serve(out)).url);
    await until(page, 'finished');
    expect(await page.locator('h1').textContent()).toBe('weightspan <i>run');
    const shown = await page.locator('.list .name').allTextContents();
    expect(shown).toEqual(expect.arrayContaining([attack, '__proto__', '\\u{202e}gnp.exe', 'a\\x07\\x1b[31m']));
    expect(await page.locator('.grid tbody th').textContent()).toBe('</th><script>hacked=1</script>');
    expect(await strange(page)).toEqual([false, 0, false]);
    for (let slot = 0; slot < names.length; slot++) {
      await page.goto(`${page.url().split('#')[0]}#/slot/${slot}`);
      await page.waitForFunction(
        () => document.querySelector<HTMLElement>('[data-chart="models"]')?.dataset.points === '4',
      );
      for (const details of await page.locator('details').all())
        await details.evaluate((one) => one.setAttribute('open', ''));
      expect(
        await page
          .locator('.numbers')
          .allTextContents()
          .then((texts) => texts.join()),
      ).toContain('<b>bold');
      expect(await strange(page)).toEqual([false, 0, false]);
    }
    const report = await openPage(`file://${file}`);
    expect(await report.locator('summary .name').allTextContents()).toEqual(
      expect.arrayContaining([attack, '\\u{202e}gnp.exe']),
    );
    expect(await strange(report)).toEqual([false, 0, false]);
  });

  it('goes from waiting to starting to running without being touched', async () => {
    const run = new WatchedRun();
    const page = await openPage((await serve(run.folder)).url);
    await until(page, 'waiting');
    expect(await page.locator('.counts').textContent()).toBe('No slots are known yet.');
    run.lease();
    run.tell(plan);
    await until(page, 'empty');
    expect(await page.locator('[data-fact="read"]').textContent()).toBe('0 of 4.00 kB');
    run.tell(blockOf(0, [progressOf('h.0.w', 0.5, null), progressOf('h.1.w', 0.25, null)]));
    await until(page, 'running');
    await page.waitForSelector('a.cell');
    expect(await page.locator('a.cell').allTextContents()).toEqual(['.50', '.25']);
    expect(await page.getByRole('progressbar').getAttribute('aria-valuenow')).toBe('10');
    for (let block = 1; block < 5; block++)
      run.tell(blockOf(block, [progressOf('h.0.w', 0.5, 2), progressOf('h.1.w', 0.25, 60)]));
    await page.waitForFunction(() => document.querySelector('a.cell.settled') !== null);
    expect(await page.locator('a.cell').allTextContents()).toEqual(['.50', '.25']);
    expect(await page.locator('.counts').textContent()).toBe('1 settled · 1 moving · 0 not started');
    expect(await page.locator('[data-fact="memory"]').textContent()).toMatch(/^\d.*B, budget 268 MB$/);
  });

  it.each([
    ['failed', failed, 'SourceMalformed: b.safetensors: NaN at 3'],
    ['interrupted', stopped, 'weightspan resume'],
  ] as const)('says that a run has %s, and why', async (state, event, text) => {
    const run = new WatchedRun();
    run.lease();
    run.tell(plan, blockOf(0, [progressOf('a', 0.5, null)]));
    const page = await openPage((await serve(run.folder)).url);
    await until(page, 'running');
    run.tell(event);
    await until(page, state);
    expect(await page.locator('.state').textContent()).toContain(state);
    expect(await page.locator('.state-text').textContent()).toContain(text);
    expect(await page.locator('[data-fact="time left"]').isVisible()).toBe(false);
    expect(await seriousIn(page)).toEqual([]);
  });

  it('shows slots of groups that have not begun as such', async () => {
    const out = join(temporaryFolder(), 'run');
    const run = startCli([
      'run',
      writeMany(200),
      '--out',
      out,
      '--rank',
      '4',
      '--block',
      '2',
      '--threads',
      '1',
      '--memory',
      '1MiB',
      '--quiet',
    ]);
    onTestFinished(() => void run.child.kill('SIGKILL'));
    const page = await openPage((await serve(out)).url);
    await blocksToldOf(out, 5);
    run.child.kill('SIGSTOP');
    await until(page, 'running');
    await page.waitForSelector('a.cell.moving');
    const classes = await page.locator('a.cell').evaluateAll((cells) => cells.map(({ className }) => className));
    expect(classes).toHaveLength(6);
    expect(classes.filter((name) => name === 'cell unseen not-started').length).toBeGreaterThan(0);
    run.child.kill('SIGCONT');
    await until(page, 'finished');
    expect(await page.locator('a.cell.unseen').count()).toBe(0);
  });

  it.each(['light', 'dark'] as const)('gives axe-core nothing serious to find, %s', async (colorScheme) => {
    const out = await zoo();
    const { url } = await serve(out);
    for (const viewport of [
      { width: 1280, height: 900 },
      { width: 390, height: 844 },
    ]) {
      const page = await openPage(url, { colorScheme, viewport });
      await until(page, 'finished');
      for (const metric of ['evr_k', 'drift', 'captured', 'components_90']) {
        await page.locator('#metric').selectOption(metric);
        await page.waitForTimeout(100);
        expect(await seriousIn(page)).toEqual([]);
      }
      for (const details of await page.locator('details').all())
        await details.evaluate((one) => one.setAttribute('open', ''));
      await page.getByRole('button', { name: 'Table' }).click();
      expect(await seriousIn(page)).toEqual([]);
      // Nothing makes the page itself wider than the screen.
      const overflow = (): Promise<number> => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      expect(await overflow()).toBeLessThanOrEqual(0);
      await page.goto(`${url}#/slot/4`);
      await page.waitForSelector('[data-chart="evr"] canvas');
      expect(await seriousIn(page)).toEqual([]);
      expect(await overflow()).toBeLessThanOrEqual(0);
    }
  });

  it('writes a report that needs no network, is small, and gives axe-core nothing serious to find', async () => {
    const file = join(temporaryFolder(), 'report.html');
    expect(await runCli(['report', await zoo(), '-o', file])).toMatchObject({ code: 0 });
    expect(statSync(file).size).toBeLessThan(2_000_000);
    for (const colorScheme of ['light', 'dark'] as const) {
      const viewport = colorScheme === 'light' ? { width: 1280, height: 900 } : { width: 390, height: 844 };
      const page = await openPage(`file://${file}`, { offline: true, colorScheme, viewport });
      expect(await page.locator('section details svg.chart').count()).toBe(22 * 4);
      for (const details of (await page.locator('details').all()).slice(0, 3))
        await details.evaluate((one) => one.setAttribute('open', ''));
      expect(await seriousIn(page)).toEqual([]);
    }
  });
});
