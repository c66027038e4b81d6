#!/usr/bin/env node
// The entry of the command line. Signals are caught before the three quarters of a second of imports begin.
import { installSignalHandlers, signalExitCode, stopRequested } from './signals.ts';

installSignalHandlers();

const { main } = await import('./commands/weightspan.ts');
const early = stopRequested();
process.exit(early === null ? await main(process.argv.slice(2)) : signalExitCode(early));
