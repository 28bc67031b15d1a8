// The numbers of a chart: what it has room for, which places are named, and which points are worth drawing.
import { NONE, number } from "./ui.js";

const MOST_POINTS = 600; // of a line; of more, each stretch keeps its lowest and highest
const TINY = 1e-100; // what is smaller is drawn as nothing

/** What a chart has room for: its ends, its ticks, and where a value is drawn, in percent from the left and the top.
 * spec: of `chart`; lines: with `points` and `raw`, of which there is one at least. */
export function scaled({ spec, lines }) {
  const ys = lines.flatMap((line) => [...line.points, ...line.raw].map(([, y]) => y));
  if (spec.baseline != null) ys.push(spec.baseline);
  ys.push(...(spec.ticks ?? []));
  ys.sort((a, b) => a - b);
  const { low, high, ticks, step } = spec.ticks ? named(ys, spec.ticks) : found(ys);
  const xs = lines.flatMap((line) => [...line.points, ...line.raw].map(([x]) => x));
  const from = spec.x.from ?? Math.min(...xs);
  const to = Math.max(spec.x.to ?? Math.max(...xs), from + 1e-9);
  const across = (x) => (100 * (x - from)) / (to - from);
  const down = (y) => (100 * (high - Math.min(high, Math.max(low, y)))) / (high - low);
  return { from, to, ticks, step, across, down };
}

/** From the lowest to the highest of what is named and drawn, whatever the values do between. ys: sorted. */
function named(ys, ticks) {
  const room = 0.08 * (ys.at(-1) - ys[0] || 1);
  const digits = Math.max(...ticks.map((tick) => (String(tick).split(".")[1] ?? "").length));
  return { low: ys[0] - room, high: ys.at(-1) + room, ticks: [...new Set(ticks)], step: 10 ** -digits };
}

/** As the values want it. ys: sorted. */
function found(ys) {
  let [low, high] = [ys[0], ys.at(-1)];
  // One line that shoots up must not flatten the others: it leaves the chart at the top.
  const most = ys[Math.floor(0.96 * (ys.length - 1))];
  if (ys.length >= 20 && high - low > 4 * (most - low) && most > low) high = low + 1.25 * (most - low);
  const size = Math.max(Math.abs(low), Math.abs(high));
  const alike = high - low < 1e-9 * size; // only their last digits differ: no axis could name those
  const room = size < TINY ? 1 : alike ? 0.1 * size : 0.06 * (high - low);
  [low, high] = [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
  const step = rounded((high - low) / 6);
  const first = Math.ceil(low / step - 1e-9);
  const ticks = Array.from({ length: 8 }, (_each, at) => (first + at) * step).filter((y) => y <= high + 1e-9 * step);
  return { low, high, ticks, step };
}

/** Whole places to name on the x axis: both ends, and steps of 1, 2, 5, 10 … between them. */
export function onAxis({ from, to }) {
  const round = Math.max(1, rounded((to - from) / 7));
  const step = Number.isInteger(round) ? round : 2 * round; // 2.5 names no whole place
  const found = [from];
  for (let x = (Math.floor(from / step) + 1) * step; x < to - 0.6 * step; x += step) found.push(x);
  return [...found, to];
}

/** The next of 1, 2, 2.5, 5 times a power of ten. */
function rounded(step) {
  const power = 10 ** Math.floor(Math.log10(step));
  return [1, 2, 2.5, 5, 10].find((factor) => factor * power >= step * 0.999) * power;
}

/** Digits behind the point that ticks of such a step need: 0.2 needs one, 0.25 two. */
export function digitsOf(step) {
  const power = Math.floor(Math.log10(step) + 1e-9);
  const half = Math.abs(step / 10 ** power - 2.5) < 1e-6;
  return Math.min(20, Math.max(0, (half ? 1 : 0) - power));
}

/** How the ticks of an axis are written, all in one notation: 0.25, or 7.5e-4 where the largest is that small or large. */
export function notation({ ticks, step }) {
  const most = Math.max(...ticks.map(Math.abs));
  if (!most || (most >= 0.01 && most < 1e6)) return (value) => number(value, digitsOf(step));
  const power = Math.floor(Math.log10(most) + 1e-9);
  const digits = digitsOf(step / 10 ** power);
  return (value) => (Math.abs(value) < step / 2 ? "0" : `${number(value / 10 ** power, digits)}e${power}`);
}

/** A number by its power of ten, so that a column of them reads as one: 1.25e-3, 7.50e-4. */
export function scientific(value) {
  if (value == null || !Number.isFinite(value)) return NONE;
  const [digits, power] = value.toExponential(2).split("e");
  return value ? `${number(Number(digits), 2)}e${Number(power)}` : "0";
}

/** At most about MOST_POINTS points: of each stretch its lowest and its highest, in their order. */
export function thinned(points) {
  if (points.length <= MOST_POINTS) return points;
  const stretch = Math.ceil((2 * points.length) / MOST_POINTS);
  const kept = [];
  for (let start = 0; start < points.length; start += stretch) {
    let [low, high] = [start, start];
    for (let at = start; at < Math.min(start + stretch, points.length); at += 1) {
      if (points[at][1] < points[low][1]) low = at;
      if (points[at][1] > points[high][1]) high = at;
    }
    for (const at of new Set([Math.min(low, high), Math.max(low, high)])) kept.push(points[at]);
  }
  if (kept.at(-1) !== points.at(-1)) kept.push(points.at(-1));
  return kept;
}

/** The member of a sorted list that is next to x; undefined of an empty one. */
export function nearest(sorted, x, of = (member) => member) {
  let [low, high] = [0, sorted.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (of(sorted[middle]) < x) low = middle + 1;
    else high = middle;
  }
  const before = sorted[low - 1];
  return before !== undefined && x - of(before) <= of(sorted[low]) - x ? before : sorted[low];
}
