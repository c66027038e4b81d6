// weightspan/pipeline: plans and whole runs, for programs that do what the command line does.

export { resolveConfig } from '../configs/resolve-config.ts';
export type { RunConfig } from '../configs/run-config.ts';
export { type Comparison, compareRuns } from './compare-runs.ts';
export { Interrupted, RunChanged, RunLocked, RunsDiffer, RunUnusable } from './errors.ts';
export type { RunControl } from './execution.ts';
export { type MergeOptions, mergeRuns } from './merge-runs.ts';
export { makePlan, type Plan } from './plan.ts';
export { planToJson, renderPlan } from './render-plan.ts';
export { extendRun, type ResumeOptions, type RunError, resumeRun, run, runStatus } from './run.ts';
export type { RunStatus } from './run-status.ts';
export type { Telemetry, TelemetryEvent } from './telemetry.ts';
