// What both kinds of data sets need: the header of a safetensors file, and files that are written once.
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';

/** A file's beginning; `entries` are its tensors, in storage order. */
export function safetensorsHeader(entries) {
  const text = JSON.stringify(entries);
  const json = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json]);
}

/** Has `write` fill `folder` unless `marker`, which is written last, says that the set is there. Returns the folder. */
export function ensureWritten({ folder, marker, set, write }) {
  const wanted = JSON.stringify(set);
  if (existsSync(marker) && readFileSync(marker, 'utf8') === wanted) return folder;
  rmSync(marker, { force: true });
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  write(folder);
  writeFileSync(marker, wanted);
  return folder;
}
