// Names what stands in a file that is no safetensors file: what downloads leave behind when they fail, and pickles under a
// wrong name. Only asked once the header length made no sense, so that a guess can never refuse a good file.

/** How weights in a pickle become something that can be read without running it. */
export const convertPickle =
  'pickles run code when opened, so they are never opened; convert once with Python: ' +
  'safetensors.torch.save_file(torch.load(FILE, weights_only=True), "model.safetensors")';

const lfs = 'version https://git-lfs';

/** What the first bytes of a foreign file tell; undefined where they tell nothing. */
export function sniff(
  start: Uint8Array,
): { readonly rule: 'not-safetensors' | 'pickle'; readonly detail: string } | undefined {
  const text = Buffer.from(start.buffer, start.byteOffset, Math.min(start.byteLength, 512)).toString('latin1');
  const found = (what: string) => ({ rule: 'not-safetensors' as const, detail: `found ${what}, expected safetensors` });
  if (text.startsWith(lfs)) return found('a Git LFS pointer (fetch the weights themselves with `git lfs pull`)');
  if (/^\s*<(?:!doctype|html|\?xml|head)/i.test(text))
    return found('an HTML or XML page (an error page of a download?)');
  if (text.startsWith('\x1f\x8b')) return found('a gzip file (unpack it first)');
  if (text.startsWith('PK\x03\x04')) {
    return {
      rule: 'pickle',
      detail: `found a zip file, most likely of PyTorch, expected safetensors; ${convertPickle}`,
    };
  }
  if (start[0] === 0x80 && start[1]! >= 2 && start[1]! <= 5)
    return { rule: 'pickle', detail: `found a pickle, expected safetensors; ${convertPickle}` };
  if (/^\s*\{\s*"/.test(text)) return found('JSON text (an error message of a download?)');
  return undefined;
}
