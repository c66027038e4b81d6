// What is to be said before a run over so few models that its spectra could not come out otherwise.
import { formatCount, formatPlural } from '../sinks/human-format.ts';
import type { Plan } from './plan.ts';

/** Null where there are enough models, or mode models is not asked for. */
export const fewModels = ({ config, models }: Pick<Plan, 'config' | 'models'>): string | null => {
  const { mode, rank, center } = config;
  const most = models.length - (center ? 1 : 0);
  if (!mode.includes('models') || most > rank) return null;
  if (models.length === 1)
    return 'there is one model, and nothing to compare it with; give a folder that holds several';
  return (
    `${formatPlural(models.length, 'model')} have ${formatPlural(most, 'direction')} at most, which hold all of the variance by ` +
    `construction; more models or a --rank below ${formatCount(most)} say more`
  );
};
