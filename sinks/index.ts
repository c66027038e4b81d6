// weightspan/sinks: what composes by hand.
export { SinkFailed } from './errors.ts';
export { type EventLog, type EventLogOptions, openEventLog } from './events.ts';
export { type MatrixFile, type MatrixFileOptions, openMatrixFile } from './matrix-file.ts';
export { type NdjsonSink, openNdjson } from './ndjson.ts';
export { openTable, type Table, type TableOptions } from './parquet-table.ts';
export { renderSummary, type SummaryOptions } from './summary.ts';
export { SCHEMA_VERSION, type TableBatch, type TableName, type TableRow, tables } from './tables.ts';
export { Terminal, type TerminalOptions, type TerminalStream } from './terminal.ts';
