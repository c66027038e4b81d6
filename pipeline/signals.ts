// A signal is a request, not an interruption: the first one sets a flag that the pipeline looks at between blocks, so that
// no block is half folded; the second one ends the process at once. Nothing heavy is imported here: cli.ts installs this
// before the 0.75 s of imports, during which a signal would otherwise kill the process without a word.

const stopSignals = ['SIGINT', 'SIGTERM', 'SIGUSR1'] as const satisfies readonly NodeJS.Signals[];

let requested: NodeJS.Signals | null = null;
const listeners = new Set<(signal: NodeJS.Signals) => void>();

/** 128 + the signal's number, as a shell reports it; SIGUSR1, a scheduler's notice, counts as SIGTERM. */
export const signalExitCode = (signal: NodeJS.Signals): number => (signal === 'SIGINT' ? 130 : 143);

/** The first signal that came, or null. */
export const stopRequested = (): NodeJS.Signals | null => requested;

/** Calls back at the first signal, or at once when it has come already. Returns what takes the callback off. */
export function onStopRequested(callback: (signal: NodeJS.Signals) => void): () => void {
  if (requested === null) listeners.add(callback);
  else callback(requested);
  return () => listeners.delete(callback);
}

export function installSignalHandlers(): void {
  const onSignal = (signal: NodeJS.Signals): void => {
    if (requested !== null) {
      process.stderr.write(`weightspan: ${signal}: leaving at once\n`);
      process.exit(signalExitCode(requested));
    }
    requested = signal;
    for (const listener of listeners) listener(signal);
  };
  for (const signal of stopSignals) process.on(signal, onSignal);
}
