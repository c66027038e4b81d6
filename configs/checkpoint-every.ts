// How often a checkpoint is written, as the command line says it.

export type CheckpointEvery = { readonly models: number } | { readonly seconds: number };

const SECONDS = { s: 1, m: 60, h: 3600 } as const;

/** `500` models, or `90s`, `10m`, `2h`; null for anything else. */
export const parseCheckpointEvery = (value: string | number): CheckpointEvery | null => {
  if (typeof value === 'number') return Number.isSafeInteger(value) && value >= 1 ? { models: value } : null;
  const match = /^(\d{1,9}(?:\.\d{1,3})?)([smh])$/.exec(value);
  if (match === null) return null;
  const seconds = Number(match[1]) * SECONDS[match[2] as keyof typeof SECONDS];
  return seconds > 0 ? { seconds } : null;
};
