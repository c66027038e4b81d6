// npm run bench [-- PART… --quick]: fit (alone where no part is named), engines, modes, lora, memory, scale, cold,
// checkpoints, watch or all; cuda, which needs a card. Every part makes its data below data/ once, prints its tables and leaves its figures below results/.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { benchCheckpoints } from './checkpoints.mjs';
import { benchCold } from './cold.mjs';
import { cli } from './command.mjs';
import { benchCuda } from './cuda.mjs';
import { benchEngines } from './engines.mjs';
import { benchFit } from './fit.mjs';
import { benchLora } from './lora.mjs';
import { benchMemory } from './memory.mjs';
import { benchModes } from './modes.mjs';
import { benchScale } from './scale.mjs';

const parts = {
  fit: benchFit,
  engines: benchEngines,
  modes: benchModes,
  lora: benchLora,
  memory: benchMemory,
  scale: benchScale,
  cold: benchCold,
  checkpoints: benchCheckpoints,
  // It needs a browser's driver, which not every place has that asks for another part.
  watch: async (options) => (await import('./watch.mjs')).benchWatch(options),
  cuda: benchCuda,
};
const words = process.argv.slice(2);
const quick = words.includes('--quick');
const named = words.filter((word) => word !== '--quick');
const unknown = named.find((word) => word !== 'all' && !Object.hasOwn(parts, word));
if (unknown !== undefined) {
  console.error(`bench: expected ${Object.keys(parts).join(', ')}, all or --quick, found ${unknown}`);
  process.exit(64);
}
if (!existsSync(cli)) {
  console.error('bench: dist/pipeline/cli.js is missing; npm run build makes it');
  process.exit(64);
}

const wanted = named.includes('all')
  ? Object.keys(parts).filter((name) => name !== 'cuda')
  : named.length > 0
    ? named
    : ['fit'];
for (const name of wanted) {
  console.error(`bench ${name}${quick ? ' (quick)' : ''}`);
  try {
    if (!(await parts[name]({ data: join(import.meta.dirname, 'data'), quick }))) process.exitCode = 70;
  } catch (error) {
    console.error(`FAILED: ${name}: ${error.message}`);
    process.exitCode = 70;
  }
}
