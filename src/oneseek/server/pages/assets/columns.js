// The columns of the leaderboard: how each cell is made, and brought up to date in place.
import { spark } from "./charts.js";
import { ranked, trained, valueAt } from "./course.js";
import { scientific } from "./scale.js";
import { _, NONE, h, icon, mark, number, percent, plain, put, svg } from "./ui.js";

/** The columns that a run's settings want, from the left. `make(model)`: a cell, and how it is brought up to date. */
export function columns(course, display) {
  const byLoss = course.rankBy === "val_loss";
  const all = [
    { name: "rank", make: rankCell, head: () => h("span", { class: "vh" }, _("Rank")) },
    { name: "who", make: whoCell, head: () => _("Model") },
    {
      name: byLoss ? "loss-first" : "bits",
      class: "num",
      make: valueCell,
      head: () =>
        byLoss ? [_("Val. loss"), " ", help("loss", LOSS())] : [_("Bits per byte"), " ", help("bits", BITS())],
    },
    byLoss &&
      course.preferences && {
        name: "accuracy",
        class: "num h-loss",
        make: accuracyCell,
        head: () => [_("Preferences"), " ", help("accuracy", ACCURACY())],
      },
    !byLoss &&
      display.show_loss_per_model !== false && {
        name: "loss",
        class: "num h-loss",
        make: lossCell,
        head: () => _("Val. loss"),
      },
    display.show_weights !== false && {
      name: "weight",
      class: "num",
      make: weightCell,
      head: (config) => [_("Weight"), " ", help("weight", WEIGHT(config))],
    },
    display.show_lr_multipliers !== false && {
      name: "rate",
      class: "num",
      make: rateCell,
      head: () => _("Learning rate"),
    },
    { name: "speed", class: "num opt", make: speedCell, head: () => _("Tokens/s") },
    { name: "trend", class: "h-spark", make: trendCell, head: () => _("Trend") },
    display.show_progress !== false && { name: "doing", make: doingCell, head: () => _("Status") },
  ];
  return all.filter(Boolean);
}

const help = (id, [about, text]) => [
  h("button", { class: "help", type: "button", popovertarget: `about-${id}`, "aria-label": about }, icon("q")),
  h("span", { class: "tip", popover: true, id: `about-${id}` }, text),
];

const BITS = () => [
  _("About bits per byte"),
  _(
    "How many bits the model needs for each byte of the right answers. Lower is better. Models with different tokenizers can be compared by it, by their loss per token they can’t.",
  ),
];
const LOSS = () => [
  _("About validation loss"),
  _("What the model still gets wrong on rows that it is not trained on. Lower is better."),
];
const ACCURACY = () => [
  _("About preferences"),
  _("In how many validation pairs the model has come to like the chosen answer better than the rejected one."),
];

function WEIGHT(config) {
  const rule = config?.adaptive_weights;
  const about = _("About weights");
  const text = _("A model’s learning rate is the base rate times its weight: 1.0 at first, more for those that lead.");
  if (!rule) return [about, text];
  if (!rule.enabled) return [about, _("Adaptive weights are off: every weight stays as it is.")];
  const { top_model_boost: boost, bottom_model_penalty: penalty, normalize_weights: even } = rule.adjust_strategy;
  const values = {
    up: plain(Number((1 + boost).toFixed(6))),
    down: plain(Number((1 - penalty).toFixed(6))),
    low: plain(rule.min_multiplier),
    high: plain(rule.max_multiplier),
  };
  const told = even
    ? _(
        "After an epoch the best model’s weight is multiplied by {up} and the worst one’s by {down}, then all are brought back to a mean of 1.0 between {low} and {high}.",
        values,
      )
    : _(
        "After an epoch the best model’s weight is multiplied by {up} and the worst one’s by {down}, between {low} and {high}.",
        values,
      );
  return [about, `${told} ${text}`];
}

// -- cells ----------------------------------------------------------------------------------------------------------

function rankCell() {
  const text = svg("text", { x: 15, y: 19.6 });
  const drawing = svg(
    "svg",
    { class: "medal", viewBox: "0 0 30 30", role: "img" },
    svg("circle", { class: "in", cx: 15, cy: 15, r: 13 }),
    svg("circle", { cx: 15, cy: 15, r: 13 }),
    text,
  );
  const update = ({ rank, value }) => {
    const said = value == null ? NONE : number(rank);
    if (text.textContent === said) return;
    text.textContent = said;
    drawing.setAttribute("class", value == null ? "medal" : `medal m${rank}`);
    drawing.setAttribute("aria-label", value == null ? _("no rank yet") : _("rank {n}", { n: said }));
  };
  return { element: h("td", {}, drawing), update };
}

/** The marker, name and key of a model. */
export function whoCell(model) {
  const over = h("span", { class: "overfits", hidden: true }, icon("warn", "warn"), _("overfits"));
  over.title = _("Its validation loss rose while its training loss fell.");
  const key = model.name === model.key ? null : h("span", { class: "key-of" }, model.key);
  const element = h(
    "td",
    { class: "c-who", role: "rowheader" },
    h("div", { class: "who" }, mark(model.place), h("b", {}, model.name), h("small", {}, key, over)),
  );
  const update = () => {
    if (over.hidden === model.overfitting) over.hidden = !model.overfitting;
  };
  return { element, update };
}

function valueCell() {
  const value = h("span", { class: "bpb" });
  const behind = h("small");
  const update = (facts) => {
    write(value, number(facts.value, 3));
    write(behind, distance(facts));
  };
  return { element: h("td", { class: "num c-bpb" }, value, behind), update };
}

function distance({ value, best, second, model }) {
  if (value == null || !best) return "";
  if (best.model !== model) return value === best.value ? level(best) : `+${number(value - best.value, 3)}`;
  if (!second) return "";
  return second.value === value ? level(second) : _("leads by {value}", { value: number(second.value - value, 3) });
}

const level = ({ model }) => _("level with {name}", { name: model.name });

const lossCell = () =>
  textCell("num c-loss", ({ model, course }) => number(valueAt(model, model.losses, course.done), 3));
const accuracyCell = () =>
  textCell("num c-loss", ({ model }) => (model.accuracy == null ? NONE : percent(model.accuracy)));
const rateCell = () =>
  textCell("num c-lr", ({ model }) => scientific(model.rate), { "data-label": _("Learning rate") });

function speedCell() {
  const value = document.createTextNode("");
  const element = h("td", { class: "num opt c-tok" }, value, h("span", { class: "vh-desk" }, ` ${_("tokens/s")}`));
  return { element, update: ({ model }) => write(value, number(model.speed)) };
}

function textCell(name, text, attributes = {}) {
  const element = h("td", { class: name, ...attributes });
  return { element, update: (facts) => write(element, text(facts)) };
}

/** The weight, with a bar that grows from 1.0 both ways. */
function weightCell() {
  const value = h("span");
  const bar = svg("rect", { class: "val", y: 7, height: 6, rx: 1 });
  const end = svg("circle", { class: "val", cy: 10, r: 5 });
  const drawing = svg(
    "svg",
    { role: "img" },
    svg("rect", { class: "rail0", x: 0, y: 8, width: "100%", height: 4, rx: 2 }),
    bar,
    svg("line", { class: "one", x1: "50%", x2: "50%", y1: 3, y2: 17 }),
    end,
  );
  const update = ({ model: { weight }, low, high }) => {
    const said = `${number(weight, 2)}×`;
    if (value.textContent === said && drawing.reach === high - low) return;
    value.textContent = said;
    drawing.reach = high - low;
    const reach = weight < 1 ? 1 - low : high - 1;
    const at = 50 + (reach ? (50 * (weight - 1)) / reach : 0);
    set(bar, { x: `${Math.min(50, at)}%`, width: `${Math.abs(at - 50)}%` });
    set(end, { cx: `${at}%` });
    const values = { value: number(weight, 2), low: number(low, 1), high: number(high, 1) };
    set(drawing, { "aria-label": _("{value} between {low} and {high}", values) });
  };
  return { element: h("td", { class: "num c-weight" }, h("span", { class: "wbar" }, value, drawing)), update };
}

function trendCell(model) {
  const drawing = spark([], model.place);
  const moved = h("span", { class: "moved" });
  let known = null;
  const update = ({ course }) => {
    const points = ranked(course, model);
    if (known === points.length) return;
    known = points.length;
    spark(points, model.place, drawing);
    const [before, now] = points.slice(-2).map(([, value]) => value);
    const change = now === undefined ? null : now - before;
    moved.className = `moved ${change ? (change < 0 ? "good" : "warn") : ""}`;
    put(moved, change == null ? h("span", { class: "muted" }, NONE) : arrow(change));
  };
  return { element: h("td", { class: "c-spark" }, h("span", { class: "trend" }, drawing, moved)), update };
}

const arrow = (change) => [
  icon(change < 0 ? "ad" : change > 0 ? "au" : "eq"),
  h("span", { class: "vh" }, change < 0 ? _("down") : change > 0 ? _("up") : _("unchanged"), " "),
  number(Math.abs(change), 3),
];

/** What it does now. */
function doingCell(model) {
  const bar = h("progress", { max: 1, value: 0, "aria-label": _("{name}, step", { name: model.name }) });
  const text = document.createTextNode("");
  const box = h("span", { class: "doing" }, bar, text);
  const update = ({ course }) => {
    const [share, said] = doing(model, course);
    if (bar.hidden !== (share == null)) bar.hidden = share == null;
    if (share != null && bar.value !== share) {
      bar.value = share;
      bar.setAttribute("aria-valuetext", percent(share));
    }
    write(text, said);
  };
  return { element: h("td", { class: "c-status" }, box), update };
}

/** The share of the bar, null without one, and words. */
function doing(model, course) {
  const { progress, download } = model;
  switch (course.status) {
    case "preparing":
      return download?.total_bytes
        ? [download.done_bytes / download.total_bytes, _("downloading")]
        : [null, _("preparing")];
    case "training":
    case "stopping":
      if (course.outside) return [null, done(course)];
      if (model.verified) return [null, _("epoch {n} kept", { n: number(model.verified) })];
      if (trained(course)) return [null, _("being verified")];
      if (model.finished) return [1, _("epoch {n} done", { n: number(course.done + 1) })];
      if (progress)
        return [
          progress.step / progress.steps,
          _("step {n} / {all}", { n: number(progress.step), all: number(progress.steps) }),
        ];
      return [0, _("begins")];
    case "queued":
      return [null, _("waits")];
    default:
      return model.verified ? [null, _("epoch {n} kept", { n: number(model.verified) })] : [null, done(course)];
  }
}

const done = (course) => (course.done ? _("epoch {n}", { n: number(course.done) }) : NONE);

/** What stands there already is not written again. */
function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
}
