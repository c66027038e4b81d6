// The Chromium of the PATH, as the bench, the screenshots and the browser tests start it.
import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { chromium } from 'playwright-core';

/** Null where there is none. */
export const chromiumPath =
  ['chromium', 'chromium-browser', 'google-chrome']
    .flatMap((name) => (process.env.PATH ?? '').split(delimiter).map((folder) => join(folder, name)))
    .find((path) => existsSync(path)) ?? null;

const ARGUMENTS = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

export function launchChromium() {
  if (chromiumPath === null)
    throw new Error('no chromium on the PATH (Debian, Ubuntu: apt-get install chromium makes it)');
  return chromium.launch({ executablePath: chromiumPath, args: ARGUMENTS });
}
