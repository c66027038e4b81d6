// Can event files be written there? Asked before anything is read, so that a mistyped folder is told at once and not after
// a night; nothing is made yet.
import { accessSync, constants, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { Effect } from 'effect';
import { escapeControls } from '../sinks/terminal-text.ts';
import { ConfigInvalid } from './errors.ts';

/** What is wrong with the folder, or with the nearest one above it that exists; null for nothing. */
const faultOf = (path: string): string | null => {
  try {
    if (!statSync(path).isDirectory()) return `${escapeControls(path)}, which is no folder`;
    accessSync(path, constants.W_OK | constants.X_OK);
    return null;
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT' && dirname(path) !== path) return faultOf(dirname(path));
    return `${escapeControls(path)}, which cannot be used (${code})`;
  }
};

/** Null: no event files are asked for. */
export const checkTensorboard = (folder: string | null): Effect.Effect<void, ConfigInvalid> => {
  const fault = folder === null ? null : faultOf(resolve(folder));
  return fault === null
    ? Effect.void
    : Effect.fail(new ConfigInvalid({ issues: [`tensorboard: expected a folder to write to, found ${fault}`] }));
};
