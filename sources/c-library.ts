// Functions of the C library of this process, on Linux: what Node has no call for, or a slow one. koffi checks nothing: every caller
// passes what the function takes, and keeps alive what it passes by address.
import koffi from 'koffi';

/** Processors on which the constants of callers hold. */
const PROCESSORS = ['x64', 'arm64'];

/** A function by its name, for the thread that asks; null where the system is another, or has none. */
export const cFunction = <F>(name: string, returns: string, takes: readonly string[]): F | null => {
  if (process.platform !== 'linux' || !PROCESSORS.includes(process.arch)) return null;
  try {
    return koffi.load(null).func(name, returns, [...takes]) as unknown as F;
  } catch {
    return null;
  }
};

/** Why the last function that failed did. */
export const lastError = (): number => koffi.errno();

/** The number of an error of the system's, such as EINTR. */
export const errorNumber = (name: string): number | undefined => koffi.os.errno[name];

/** Where an array stands, in bytes, for as long as it is alive: V8 moves those of its own heap, which are of 64 bytes at most. */
export const addressOf = (values: ArrayBufferView): number => Number(koffi.address(values));
