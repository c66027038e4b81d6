// npm run screenshots: pictures of the page and the report, light and dark, on a desktop and a phone, into runs/screenshots/.
// The overview and one slot are of a run that is held in its middle, over made-up models whose layers differ in how much
// they share; the finished slot and the report are of the demo's fine-tunes. Needs Chromium on the PATH.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { chromiumPath, launchChromium } from '../bench/chromium.mjs';
import { safetensorsHeader } from '../bench/model-files.mjs';
import { generator } from '../bench/random.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const cli = join(root, 'dist/pipeline/cli.js');
const folder = join(root, 'runs/screenshots');
const modules = ['attn.q_proj', 'attn.k_proj', 'attn.v_proj', 'attn.o_proj', 'mlp.up_proj', 'mlp.down_proj'];
const LAYERS = 12;
const MODELS = 300;
const SHAPE = [24, 48];
const SIZE = SHAPE[0] * SHAPE[1];

if (chromiumPath === null) {
  console.error('screenshots: no chromium on the PATH (Debian, Ubuntu: apt-get install chromium)');
  process.exit(69);
}

/** Each slot has a few directions that its models share, more of them and louder noise the deeper it stands. */
function writeModels(into) {
  const normal = generator(8);
  const names = [
    'embed.weight',
    ...Array.from({ length: LAYERS }, (_, layer) =>
      modules.map((name) => `model.layers.${layer}.${name}.weight`),
    ).flat(),
    'lm_head.weight',
  ];
  const slots = names.map((name, i) => {
    const rank = 2 + (i % 5);
    const noise = 0.02 + 0.12 * (i / names.length) ** 2 + (i % 6 === 4 ? 0.12 : 0);
    const directions = Array.from({ length: rank }, () =>
      Float32Array.from({ length: SIZE }, () => normal() / Math.sqrt(SIZE)),
    );
    return { name, noise, directions };
  });
  const entries = Object.fromEntries(
    slots.map(({ name }, i) => [
      name,
      { dtype: 'F32', shape: SHAPE, data_offsets: [i * SIZE * 4, (i + 1) * SIZE * 4] },
    ]),
  );
  const header = safetensorsHeader(entries);
  for (let model = 0; model < MODELS; model++) {
    const data = new Float32Array(slots.length * SIZE);
    slots.forEach(({ noise, directions }, s) => {
      const weights = directions.map((_, j) => (normal() * 3) / (1 + j));
      for (let i = 0; i < SIZE; i++) {
        let value = noise * normal();
        for (let j = 0; j < directions.length; j++) value += weights[j] * directions[j][i];
        data[s * SIZE + i] = value;
      }
    });
    const path = join(into, `finetune-${String(model).padStart(3, '0')}`);
    mkdirSync(path, { recursive: true });
    writeFileSync(join(path, 'model.safetensors'), Buffer.concat([header, Buffer.from(data.buffer)]));
  }
}

const command = (...args) => spawn(process.execPath, [cli, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });

async function addressOf(server) {
  for await (const text of server.stdout) return String(text).trim();
  throw new Error('the server ended before it printed its address');
}

const blocksIn = (run) => {
  const path = join(run, 'events.ndjson');
  return existsSync(path) ? readFileSync(path, 'utf8').split('"type":"block"').length - 1 : 0;
};

rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });
const [live, zoo, report] = ['live/finetunes', 'zoo', 'report.html'].map((name) => join(folder, name));
writeModels(join(folder, 'models'));
spawnSync(
  process.execPath,
  [cli, 'run', join(root, 'examples/zoo/full'), '--rank', '8', '--block', '2', '--out', zoo, '--quiet'],
  { stdio: 'inherit' },
);
spawnSync(process.execPath, [cli, 'report', zoo, '-o', report], { stdio: 'inherit' });
// A budget that takes the slots in two groups, so that some have not begun.
const run = command(
  'run',
  join(folder, 'models'),
  '--out',
  live,
  '--rank',
  '16',
  '--block',
  '10',
  '--memory',
  '12MiB',
  '--threads',
  '1',
  '--snapshot-every',
  '4',
  '--quiet',
);
while (blocksIn(live) < 46) await sleep(2);
run.kill('SIGSTOP');
const servers = [command('watch', live), command('watch', zoo)];
const [liveUrl, zooUrl] = await Promise.all(servers.map(addressOf));

const pictures = [
  { name: 'overview', url: liveUrl, ready: 'a.cell' },
  { name: 'slot-live', url: `${liveUrl}#/slot/20`, ready: '[data-chart="evr"] canvas' },
  { name: 'slot', url: `${zooUrl}#/slot/4`, ready: '[data-chart="models"][data-points="14"]' },
  { name: 'table', url: zooUrl, ready: 'a.cell', click: 'Table' },
  { name: 'report', url: pathToFileURL(report).href, ready: 'details', opens: 'section details >> nth=4' },
];
const browser = await launchChromium();
for (const colorScheme of ['light', 'dark']) {
  for (const [device, viewport] of [
    ['desktop', { width: 1280, height: 900 }],
    ['phone', { width: 390, height: 844 }],
  ]) {
    const context = await browser.newContext({ colorScheme, viewport, deviceScaleFactor: device === 'phone' ? 2 : 1 });
    for (const { name, url, ready, click, opens } of pictures) {
      const page = await context.newPage();
      await page.goto(url);
      await page.waitForSelector(ready);
      if (click !== undefined) await page.getByRole('button', { name: click }).click();
      if (opens !== undefined) await page.locator(opens).evaluate((one) => one.setAttribute('open', ''));
      await page.waitForTimeout(600);
      await page.screenshot({ path: join(folder, `${name}-${colorScheme}-${device}.png`), fullPage: true });
      await page.close();
    }
    await context.close();
  }
}
await browser.close();
for (const child of [run, ...servers]) child.kill('SIGKILL');
rmSync(join(folder, 'models'), { recursive: true });
console.log(`pictures in ${folder}`);
