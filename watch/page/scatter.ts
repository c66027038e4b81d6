// The models as points on two components, on a canvas: twenty thousand of them are drawn in a few milliseconds. Both axes have
// one scale, since coordinates are distances. The pointer, or the arrow keys, name a model.
import type { ModelPoint } from '../view/answers.ts';
import { element, setText, shown } from './dom.ts';

const HEIGHT = 260;
const MARGIN = 36;
const REACH = 24;

const color = (name: string): string => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const digits = (value: number): string => String(Number(value.toPrecision(3)));

interface Placed {
  readonly x: number;
  readonly y: number;
}

export class Scatter {
  readonly box: HTMLElement;
  readonly #canvas: HTMLCanvasElement;
  readonly #said: HTMLElement;
  readonly #across = element('select', { 'aria-label': 'component across' });
  readonly #up = element('select', { 'aria-label': 'component up' });
  readonly #watch: ResizeObserver;
  readonly #scheme = matchMedia('(prefers-color-scheme: dark)');
  readonly #draw = (): void => this.#paint();
  #models: readonly ModelPoint[] = [];
  #places: readonly Placed[] = [];
  #chosen = -1;

  constructor() {
    this.#canvas = element('canvas', {
      tabindex: 0,
      role: 'img',
      'aria-label': 'Models as points on two components. Arrow keys go from model to model.',
    });
    this.#said = element('p', { class: 'said', 'aria-live': 'polite' });
    this.box = element(
      'div',
      { class: 'scatter', 'data-chart': 'models' },
      element('p', { class: 'choose' }, 'across ', this.#across, ' up ', this.#up),
      this.#canvas,
      this.#said,
    );
    for (const select of [this.#across, this.#up]) select.addEventListener('change', this.#draw);
    this.#canvas.addEventListener('pointermove', ({ offsetX, offsetY }) =>
      this.#choose(this.#nearest(offsetX, offsetY)),
    );
    this.#canvas.addEventListener('keydown', (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (step === undefined || this.#models.length === 0) return;
      event.preventDefault();
      const from = this.#chosen < 0 && step < 0 ? 0 : this.#chosen;
      this.#choose((from + step + this.#models.length) % this.#models.length);
    });
    this.#watch = new ResizeObserver(this.#draw);
    this.#watch.observe(this.box);
    this.#scheme.addEventListener('change', this.#draw);
  }

  show(models: readonly ModelPoint[]): void {
    this.#models = models;
    this.#chosen = -1;
    this.box.dataset.points = String(models.length);
    const components = models[0]?.coordinates.length ?? 0;
    for (const [i, select] of [this.#across, this.#up].entries()) {
      const before = select.value;
      select.replaceChildren(
        ...Array.from({ length: components }, (_, j) => element('option', { value: j }, `component ${j + 1}`)),
      );
      select.value = Number(before) < components && before !== '' ? before : String(Math.min(i, components - 1));
    }
    this.#paint();
  }

  close(): void {
    this.#watch.disconnect();
    this.#scheme.removeEventListener('change', this.#draw);
  }

  #choose(at: number): void {
    if (at === this.#chosen) return;
    this.#chosen = at;
    this.#paint();
  }

  #nearest(x: number, y: number): number {
    let best = -1;
    let least = REACH * REACH;
    this.#places.forEach((place, i) => {
      const distance = (place.x - x) ** 2 + (place.y - y) ** 2;
      if (distance < least) [best, least] = [i, distance];
    });
    return best;
  }

  #paint(): void {
    const width = this.box.clientWidth;
    if (width === 0) return;
    const ratio = devicePixelRatio;
    const canvas = this.#canvas;
    canvas.width = width * ratio;
    canvas.height = HEIGHT * ratio;
    const context = canvas.getContext('2d')!;
    context.scale(ratio, ratio);
    const [a, b] = [Number(this.#across.value), Number(this.#up.value)];
    const xs = this.#models.map(({ coordinates }) => coordinates[a] ?? 0);
    const ys = this.#models.map(({ coordinates }) => coordinates[b] ?? 0);
    const reach = (values: readonly number[]): number =>
      values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const room = { x: (width - 2 * MARGIN) / 2, y: (HEIGHT - 2 * MARGIN) / 2 };
    const scale = Math.min(room.x / (reach(xs) || 1), room.y / (reach(ys) || 1));
    const middle = { x: width / 2, y: HEIGHT / 2 };
    this.#places = xs.map((x, i) => ({ x: middle.x + x * scale, y: middle.y - ys[i]! * scale }));

    context.strokeStyle = color('--line');
    context.beginPath();
    context.moveTo(MARGIN / 2, middle.y);
    context.lineTo(width - MARGIN / 2, middle.y);
    context.moveTo(middle.x, MARGIN / 2);
    context.lineTo(middle.x, HEIGHT - MARGIN / 2);
    context.stroke();
    context.fillStyle = color('--series-0');
    context.globalAlpha = this.#models.length > 2000 ? 0.35 : 0.75;
    const radius = this.#models.length > 2000 ? 2 : 4.5;
    for (const { x, y } of this.#places) {
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.fill();
    }
    context.globalAlpha = 1;
    // Above the points, with a rim that keeps them off.
    context.font = '12px system-ui, sans-serif';
    context.lineWidth = 4;
    context.strokeStyle = color('--card');
    context.fillStyle = color('--muted');
    const label = (text: string, side: 'left' | 'right', x: number, y: number): void => {
      context.textAlign = side;
      context.strokeText(text, x, y);
      context.fillText(text, x, y);
    };
    label(`component ${a + 1} →`, 'right', width - 8, middle.y - 6);
    label(`component ${b + 1} ↑`, 'left', middle.x + 6, 14);
    this.#paintChosen(context, width, a, b);
  }

  #paintChosen(context: CanvasRenderingContext2D, width: number, a: number, b: number): void {
    const model = this.#models[this.#chosen];
    const place = this.#places[this.#chosen];
    if (model === undefined || place === undefined) {
      setText(this.#said, 'Point at a model, or use the arrow keys, for its name.');
      return;
    }
    const name = shown(model.name);
    context.strokeStyle = color('--series-1');
    context.lineWidth = 3;
    context.beginPath();
    context.arc(place.x, place.y, 8, 0, 2 * Math.PI);
    context.stroke();
    context.fillStyle = color('--text');
    const isRight = place.x > width / 2;
    context.textAlign = isRight ? 'right' : 'left';
    context.fillText(
      name.length > 60 ? `…${name.slice(-59)}` : name,
      place.x + (isRight ? -14 : 14),
      place.y - 10,
      width * 0.6,
    );
    const captured = model.captured === null ? '' : `, captured ${model.captured.toFixed(3)} when it arrived`;
    setText(
      this.#said,
      `${name}: ${digits(model.coordinates[a] ?? 0)} on component ${a + 1}, ${digits(model.coordinates[b] ?? 0)} on component ${b + 1}${captured}`,
    );
  }
}
