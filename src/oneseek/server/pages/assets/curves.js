// The charts of a run that goes on: validation, weights, training loss, learning rates.
import { chart } from "./charts.js";
import { gone, ranked } from "./course.js";
import { scientific } from "./scale.js";
import { OVER } from "./standing.js";
import { $, _, h, plain } from "./ui.js";

const PAUSE = 1000; // ms between two drawings of single steps

let metric = "ranked"; // what the first chart shows
let epochsDrawn = "";
let stepsDrawn = 0;
let stepsKnown = -1;
let stepsLater = 0;

/** Draw those charts anew for which something came. display: of the run's settings; again(): asked to draw once more. */
export function draw(course, config, display, again) {
  const models = course.models.map((model) => [model.rates.length, gone(model) ? 1 : 0]);
  const key = `${course.done} ${course.status} ${models} ${metric}`;
  if (key !== epochsDrawn) {
    epochsDrawn = key;
    validation(course, display, again);
    if (display.show_weights !== false) weights(course, config);
    if (display.show_lr_multipliers !== false) rates(course);
    stepsKnown = -1;
  }
  const pause = stepsDrawn + PAUSE - performance.now();
  clearTimeout(stepsLater);
  if (stepsKnown === course.events) return;
  if (pause > 0 && stepsKnown !== -1) stepsLater = setTimeout(again, pause);
  else steps(course);
}

const axis = (course) => ({ label: _("Epoch"), from: 0, to: course.total });
const lines = (course, points, dead) =>
  course.models.map((model) => ({
    place: model.place,
    name: model.name,
    points: points(model),
    dead: gone(model) ? dead(gone(model)) : null,
  }));
const silent = () => "";
const causeOf = ({ problem }) => problem;

/** What models are ranked by, or their loss. Of a run that is over the result has the first, so only the other is left. */
function validation(course, display, again) {
  const over = OVER.includes(course.status);
  const byLoss = over || metric === "loss" || course.rankBy === "val_loss";
  const both = course.rankBy !== "val_loss" && display.show_loss_per_model !== false;
  $("#chart-validation").hidden = over && !both;
  if ($("#chart-validation").hidden) return;
  chart($("#chart-validation"), {
    title: byLoss ? _("Validation loss") : _("Validation bits per byte"),
    note: byLoss && course.rankBy !== "val_loss" ? _("not to be compared between tokenizers") : _("lower is better"),
    x: axis(course),
    series: lines(course, (model) => (byLoss ? model.losses : ranked(course, model)), causeOf),
    digits: 3,
    better: "lower",
    empty: _("The first values come at the end of the first epoch."),
    controls: (chooser ??= metricSwitch(again)),
  });
  chooser.hidden = over || !both;
}

let chooser = null;

function metricSwitch(again) {
  const choice = (value, text) =>
    h(
      "label",
      {},
      h("input", {
        type: "radio",
        name: "metric",
        value,
        checked: metric === value,
        onchange: () => {
          metric = value;
          again();
        },
      }),
      text,
    );
  return h(
    "fieldset",
    { class: "seg small" },
    h("legend", { class: "vh" }, _("What the chart shows")),
    choice("ranked", _("Bits per byte")),
    choice("loss", _("Loss")),
  );
}

function weights(course, config) {
  const rule = config?.adaptive_weights;
  const limits = rule && { low: plain(rule.min_multiplier), high: plain(rule.max_multiplier) };
  $("#chart-weights").hidden = false;
  chart($("#chart-weights"), {
    title: _("Weights"),
    note: !rule?.enabled ? "" : _("after each epoch, between {low} and {high}", limits),
    x: { ...axis(course), label: _("After epoch"), zero: _("start") },
    series: lines(course, (model) => (course.done ? model.weights : []), silent),
    digits: 2,
    better: null,
    baseline: 1,
    ticks: rule?.enabled ? [rule.min_multiplier, 1, rule.max_multiplier] : null,
    empty: rule?.enabled === false ? _("Adaptive weights are off.") : _("They move at the end of each epoch."),
  });
}

function rates(course) {
  const told = course.models.some((model) => model.rates.length);
  $("#chart-rates").hidden = course.outside && !told;
  if ($("#chart-rates").hidden) return;
  chart($("#chart-rates"), {
    title: _("Learning rate"),
    note: _("with which each epoch is trained"),
    x: axis(course),
    series: lines(course, (model) => model.rates, silent),
    say: scientific,
    wide: 7, // as 1.50e-4: the axis has its room before the values come
    better: null,
    empty: _("They are known when the first epoch begins."),
  });
}

/** Training loss: of single steps while there are enough of them, otherwise the mean of each epoch. */
function steps(course) {
  stepsDrawn = performance.now();
  stepsKnown = course.events;
  const most = Math.max(...course.models.map((model) => model.steps.length));
  const single = !course.done || most >= 8 * course.done;
  const any = single ? most > 0 : true;
  chart($("#chart-training"), {
    title: _("Training loss"),
    note: any ? noteOf(single, most) : "",
    x: axis(course),
    series: course.models.map((model) => ({
      place: model.place,
      name: model.name,
      points: single ? smoothed(model.steps) : model.trained,
      raw: model.steps,
      marked: !single,
      dead: gone(model) ? causeOf(gone(model)) : null,
    })),
    digits: 3,
    better: "lower",
    empty: _("The first values come with the first steps."),
  });
}

function noteOf(single, most) {
  if (single) return _("per step, smoothed");
  return most ? _("mean of each epoch, single steps behind") : _("mean of each epoch");
}

/** Each point as the mean of its neighbourhood, a twentieth of the line. */
function smoothed(points) {
  const known = points.filter(([, y]) => y != null);
  const sums = [0];
  for (const [, y] of known) sums.push(sums.at(-1) + y);
  const reach = Math.max(1, Math.round(known.length / 40));
  return known.map(([x], at) => {
    const [from, to] = [Math.max(0, at - reach), Math.min(known.length, at + reach + 1)];
    return [x, (sums[to] - sums[from]) / (to - from)];
  });
}
