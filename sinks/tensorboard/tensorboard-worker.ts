// Writes the event file of a run, in a thread of its own: it follows events.ndjson as the page does, so the thread that folds
// does nothing for it, and one that goes on tells the whole run again from its beginning.
import { join } from 'node:path';
import { parentPort, workerData } from 'node:worker_threads';
import { EventTail } from '../event-tail.ts';
import { EventFile } from './event-file.ts';
import { fileVersion, SlotSummaries, sessionStart } from './slot-summaries.ts';

const LOOK_MS = 1_000;

const { run, folder } = workerData as { readonly run: string; readonly folder: string };
const port = parentPort!;
const seconds = (): number => Date.now() / 1e3;

const file = await EventFile.create(folder);
await file.append([fileVersion(seconds()), sessionStart(seconds())]);
const tail = new EventTail(join(run, 'events.ndjson'));
let summaries = new SlotSummaries();

const readOn = async (): Promise<void> => {
  for (;;) {
    const { isAnew, lines, hasMore } = await tail.look();
    if (isAnew) summaries = new SlotSummaries();
    const records = lines.flatMap(({ event }) => summaries.of(event));
    if (isAnew) records.unshift(sessionStart(seconds()));
    if (records.length > 0) await file.append(records);
    if (!hasMore) return;
  }
};

let ending: 'keep' | 'remove' | null = null;
let wake = (): void => {};
port.once('message', (end: 'keep' | 'remove') => {
  ending = end;
  wake();
});
port.postMessage('ready');

while (ending === null) {
  await readOn();
  if (ending === null)
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, LOOK_MS);
      wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
}
if ((ending as string) === 'remove') {
  await file.close();
  file.remove();
} else {
  await readOn();
  await file.close();
}
port.close();
