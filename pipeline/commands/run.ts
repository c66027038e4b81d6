// `weightspan run`: the main job. Progress goes to stderr, the summary to stdout; --json puts events on stdout instead.
// When a reader of stdout goes (`| head`), the run goes on quietly: its results are in the run folder.
import { Effect, Option } from 'effect';
import { Command, Flag } from 'effect/cli';
import { openNdjson } from '../../sinks/ndjson.ts';
import { renderSummary } from '../../sinks/summary.ts';
import { Terminal } from '../../sinks/terminal.ts';
import { openTextStream } from '../../sinks/text-stream.ts';
import { run } from '../run.ts';
import { stopRequested } from '../signals.ts';
import type { TelemetryEvent } from '../telemetry.ts';
import { resolveOptions, sharedOptions } from './options.ts';

/** Where events go, and a way to wait until all have left. */
interface View {
  readonly show: (event: TelemetryEvent) => void;
  readonly close: () => Promise<void>;
}

const jsonView = (quiet: boolean): View => {
  const ndjson = openNdjson(process.stdout);
  return {
    show: (event) => {
      if (!quiet || event.type === 'done' || event.type === 'failed') ndjson.write(event);
    },
    close: () => ndjson.flush(),
  };
};

const quietView = (): View => {
  const stdout = openTextStream(process.stdout);
  return {
    show: (event) => {
      if (event.type === 'done') stdout.write(`${event.models} models, ${event.slots.length} slots: ${event.out}\n`);
    },
    close: () => stdout.flush(),
  };
};

const terminalView = (): View => {
  const progress = new Terminal(process.stderr);
  const stdout = openTextStream(process.stdout);
  const files: { file: string; bytes: number }[] = [];
  let summary = '';
  return {
    show: (event) => {
      if (event.type === 'write') files.push({ file: event.file, bytes: event.bytes });
      if (event.type !== 'done') return progress.show(event);
      const columns = process.stdout.columns ?? 132;
      const color = process.stdout.isTTY === true && !process.env.NO_COLOR && process.env.TERM !== 'dumb';
      summary = `${renderSummary(event, { columns, color, files }).join('\n')}\n`;
    },
    close: async () => {
      // The live view goes first: both streams may be the same terminal.
      await progress.close();
      stdout.write(summary);
      await stdout.flush();
    },
  };
};

const runOptions = {
  ...sharedOptions,
  out: Flag.String('out').pipe(
    Flag.withMetavar('RUN'),
    Flag.withDescription('the run folder to make; must be new or empty'),
    Flag.optional,
  ),
  quiet: Flag.Boolean('quiet').pipe(Flag.withDescription('no progress; one line at the end'), Flag.optional),
} as const;

export const runCommand = Command.make('run', runOptions, (options) =>
  Effect.gen(function* () {
    // Asked before the config is known, so that a wrong config is an event too.
    const asked = Option.getOrElse(options.json, () => false);
    const failed = (error: { readonly _tag: string; readonly message: string }) =>
      Effect.promise(async () => {
        const view = jsonView(false);
        view.show({ type: 'failed', error: error._tag, message: error.message });
        await view.close();
      });
    const { config, json, quiet } = yield* resolveOptions(options, 'run').pipe(
      Effect.tapError((error) => (asked ? failed(error) : Effect.void)),
    );
    const view = json ? jsonView(quiet) : quiet ? quietView() : terminalView();
    yield* run(config, view.show, { stopRequested }).pipe(
      Effect.tapError(({ _tag, message }) => Effect.sync(() => view.show({ type: 'failed', error: _tag, message }))),
      Effect.ensuring(Effect.promise(() => view.close())),
    );
  }),
).pipe(
  Command.withDescription('Stream models through an incremental PCA, layer by layer, into a folder of Parquet tables.'),
  Command.withExamples([
    { command: 'weightspan run models/ --out runs/first', description: 'All models of a folder, the defaults' },
    {
      command: "weightspan run 'finetunes/*' --base pretrained/ --rank 16 --out runs/vit",
      description: 'Fine-tunes relative to their base',
    },
  ]),
);
