#!/usr/bin/env node
// The entry point: catches signals first, then loads the rest, which takes most of a second.
import { installSignalHandlers } from './signals.ts';

installSignalHandlers();
const { main } = await import('./commands/weightspan.ts');
main();
