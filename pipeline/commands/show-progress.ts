// How a run shows itself. Programs get every event on standard output (--json) and nothing else there. People get
// progress on standard error and the summary on standard output, so that either can be redirected alone; where both are
// one terminal, one view does both and the summary takes the live view's place. --quiet leaves a line at the end.
import { formatBytes, formatCount, formatDuration, formatPlural } from '../../sinks/human-format.ts';
import { openNdjson } from '../../sinks/ndjson.ts';
import { renderSummary } from '../../sinks/summary.ts';
import { Terminal, wantsColor } from '../../sinks/terminal.ts';
import { escapeControls } from '../../sinks/terminal-text.ts';
import type { Telemetry, TelemetryEvent } from '../telemetry.ts';
import { writeOutput } from './standard-output.ts';

export interface Progress {
  readonly telemetry: Telemetry;
  /** Ends the view. Await it before anything else is printed. */
  close(): Promise<void>;
}

/** Wide enough for every column of the summary where there is no terminal to ask. */
const fileColumns = 132;

function showJson(): Progress {
  const ndjson = openNdjson(process.stdout);
  return { telemetry: (event) => ndjson.write(event), close: () => ndjson.flush() };
}

function showResult(): Progress {
  /** Models that are out, altogether or in some slots. */
  const skipped = new Set<string>();
  const telemetry = (event: TelemetryEvent): void => {
    if (event.type === 'skip') skipped.add(event.model);
    if (event.type === 'notice') process.stderr.write(`weightspan: ${escapeControls(event.text)}\n`);
    if (event.type !== 'done') return;
    const { out, models, slots, bytesRead, tables_s, warnings } = event;
    const without = skipped.size > 0 ? ` (${formatCount(skipped.size)} skipped)` : '';
    const warned = warnings.reduce((sum, { count }) => sum + count, 0);
    const parts = [
      `${formatPlural(models, 'model')}${without}`,
      formatPlural(new Set(slots.map(({ slot }) => slot)).size, 'slot'),
      `${formatBytes(bytesRead)} in ${formatDuration(tables_s)}`,
      ...(warned > 0 ? [formatPlural(warned, 'warning')] : []),
    ];
    writeOutput(`${escapeControls(out)}: ${parts.join(', ')}\n`);
  };
  return { telemetry, close: () => Promise.resolve() };
}

function showView(): Progress {
  if (process.stdout.isTTY && process.stderr.isTTY) {
    const terminal = new Terminal(process.stdout);
    return { telemetry: (event) => terminal.show(event), close: () => terminal.close() };
  }
  const terminal = new Terminal(process.stderr);
  const color = wantsColor(process.stdout);
  const columns = process.stdout.columns ?? fileColumns;
  const files: { file: string; bytes: number }[] = [];
  let closed: Promise<void> | null = null;
  const close = (): Promise<void> => {
    closed ??= terminal.close();
    return closed;
  };
  const telemetry = (event: TelemetryEvent): void => {
    if (event.type === 'write') files.push(event);
    if (event.type !== 'done') {
      terminal.show(event);
      return;
    }
    void close();
    writeOutput(`${renderSummary(event, { columns, color, files }).join('\n')}\n`);
  };
  return { telemetry, close };
}

export function showProgress({ json, quiet }: { readonly json: boolean; readonly quiet: boolean }): Progress {
  if (json) return showJson();
  return quiet ? showResult() : showView();
}
