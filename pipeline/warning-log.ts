// Where a run's warnings go: each to the telemetry and to a row of its own, at once, so that memory does not grow with them;
// what says the same of many slots or models is counted together for the summary.
import { openTable } from '../sinks/parquet-table.ts';
import { displayName } from '../sources/display-name.ts';
import type { Finding } from './find-warnings.ts';
import type { Telemetry, WarningGroup } from './telemetry.ts';

/** Slots or models that a group names. */
const NAMED = 3;

export class WarningLog {
  readonly #table;
  readonly #telemetry: Telemetry;
  readonly #groups = new Map<string, WarningGroup>();

  readonly #record: (finding: Finding) => void;

  /** @param record sees all that is added, in order */
  constructor(folder: string, telemetry: Telemetry, record: (finding: Finding) => void = () => {}) {
    this.#table = openTable(folder, 'warnings');
    this.#telemetry = telemetry;
    this.#record = record;
  }

  add(finding: Finding): void {
    this.#record(finding);
    this.replay(finding);
    const { slotId, modelId, ...warning } = finding;
    this.#telemetry({ type: 'warning', warning });
  }

  /** Takes what a run before this one recorded. */
  replay({ slotId, modelId, ...warning }: Finding): void {
    const { code, slot, model, value, text } = warning;
    const name = slot ?? model;
    const row = name === null ? text : `${slot === null ? 'model' : 'slot'} ${displayName(name)}: ${text}`;
    const mode = slotId === null ? null : 'models';
    this.#table.append({ code, slot_id: slotId, mode, model_id: modelId, value, text: row });
    const of = slot !== null ? 'slot' : model !== null ? 'model' : null;
    const key = JSON.stringify([code, of, text]);
    const group = this.#groups.get(key) ?? { code, text, of, count: 0, names: [] };
    const names = name === null || group.names.length === NAMED ? group.names : [...group.names, name];
    this.#groups.set(key, { ...group, count: group.count + 1, names });
  }

  has(code: string): boolean {
    return this.groups.some((group) => group.code === code);
  }

  get groups(): readonly WarningGroup[] {
    return [...this.#groups.values()];
  }

  close(): void {
    this.#table.close();
  }

  abort(): void {
    this.#table.abort();
  }
}
