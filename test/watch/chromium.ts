// The Chromium of the PATH, as a person's browser would be: every page is watched for errors, and for requests to anywhere
// but its own server.
import type { Browser, BrowserContextOptions, Page } from 'playwright-core';
import { afterAll, expect, onTestFinished } from 'vitest';
import { chromiumPath, launchChromium } from '../../bench/chromium.mjs';
import { requirePart } from '../requires.ts';

export const hasChromium = requirePart('chromium', chromiumPath !== null);

let browser: Promise<Browser> | null = null;
afterAll(async () => (await browser)?.close());

/** A page whose errors, and requests to elsewhere, fail the test. */
export async function openPage(url: string, options: BrowserContextOptions = {}): Promise<Page> {
  browser ??= launchChromium();
  const context = await (await browser).newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  const wrong: string[] = [];
  page.on('pageerror', ({ message }) => wrong.push(message));
  page.on('request', (request) => {
    const to = request.url();
    if (!to.startsWith(new URL(url).origin) && !to.startsWith('data:') && !to.startsWith('file:'))
      wrong.push(`asked ${to}`);
  });
  onTestFinished(async () => {
    await context.close();
    expect(wrong).toEqual([]);
  });
  await page.goto(url);
  return page;
}
