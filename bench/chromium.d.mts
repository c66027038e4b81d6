import type { Browser } from 'playwright-core';

export const chromiumPath: string | null;
export function launchChromium(): Promise<Browser>;
