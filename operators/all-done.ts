/** Like Promise.all, but fails no sooner than all have settled: no thread looks at a file any more, which is closed then, and its number used again. */
export const allDone = async <T>(promises: readonly Promise<T>[]): Promise<T[]> => {
  const settled = await Promise.allSettled(promises);
  return settled.map((one) => {
    if (one.status === 'rejected') throw one.reason;
    return one.value;
  });
};
