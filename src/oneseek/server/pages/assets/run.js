// One run: followed while it goes on, shown as it is when it does not.
import {
  $,
  Failure,
  _,
  clock,
  duration,
  failure,
  get,
  h,
  moment,
  number,
  put,
  small,
  status as badge,
  tell,
} from "./ui.js";
import * as actions from "./actions.js";
import { board } from "./board.js";
import { chart, highlight } from "./charts.js";
import { apply, begin, gone, ranked, ranking } from "./course.js";
import { follow } from "./follow.js";
import * as logs from "./log.js";
import * as pace from "./pace.js";

const PAUSE = 250; // ms between two drawings
const CHART_PAUSE = 1000; // ms between two drawings of single steps
const QUEUE_PAUSE = 4000;
const RETRY = 3000;
const OVER = ["completed", "certified"];
const IDLE = [...OVER, "stopped", "interrupted", "failed"];
const id = decodeURIComponent(location.pathname.split("/").at(-1));
const path = `/api/runs/${encodeURIComponent(id)}`;

let run = null; // its document
let course = null;
let display = {};
let drawBoard = null;
let log = logs.empty();
let live = false; // all that was written before has been read
let connection = "reconnecting";
let metric = "ranked"; // what the first chart shows
let queueing = 0;

document.addEventListener("visibilitychange", later);
$("#live").addEventListener("toggle", later);
begun();

async function begun() {
  $("#run-id").textContent = id;
  try {
    run = await get(path);
  } catch (error) {
    if (error instanceof Failure) return missing(error);
    throw error;
  }
  put($("#trouble"));
  title();
  put($("#badge"), badge(run.status));
  if (run.documents) return result();
  if (run.status === "damaged" || !run.base_models) return damaged();
  display = run.config?.live_leaderboard.display ?? {};
  $("#live").hidden = false;
  if (run.status === "certified") whenOpened();
  else restart();
  if (IDLE.includes(run.status)) await result();
}

/** What is over is told by its result: how it went is read when somebody wants to know. */
function whenOpened() {
  $("#live").open = false;
  $("#live").addEventListener("toggle", restart, { once: true });
}

/** Read the run from its first record on. */
function restart() {
  course = begin(run);
  live = false;
  logs.clear(log, $("#log"));
  drawBoard = board($("#board"), { config: run.config, display, over });
  $("#connection").hidden = false;
  clearInterval(queueing);
  queueing = setInterval(() => document.hidden || actions.queue(course, refresh), QUEUE_PAUSE);
  follow(id, { after: () => course.seq, told: take, state, check, ended });
}

// -- what comes -----------------------------------------------------------------------------------------------------

function take(events) {
  for (const event of events) {
    if (event.type === "heartbeat") beat(event);
    else if (event.seq > course.seq) {
      logs.note(log, event, course);
      const before = live && ranking(course)[0];
      apply(course, event);
      if (live) announce(event, before);
    }
  }
  later();
}

function beat(event) {
  const before = course.status;
  apply(course, event);
  if (live && before === "completed" && course.status === "certified") logs.noteCertified(log, event.timestamp);
  live = true;
  if (run.status !== course.status) refresh();
}

/** Say to who only listens what must not be missed. */
function announce(event, before) {
  if (event.type === "epoch_end") {
    const [now] = ranking(course);
    if (now.value != null && before.model !== now.model) tell(_("{model} leads", { model: now.model.name }));
  } else if (event.type === "training_error") tell(event.problem);
  else if (event.type === "training_complete") tell(_("The run has finished."));
}

/** Ask for the document again: problem, DNA and the like are only there. */
async function refresh() {
  try {
    run = await get(path);
  } catch (error) {
    if (error instanceof Failure) return;
    throw error;
  }
  later();
  if (IDLE.includes(run.status)) await result();
  else {
    $("#result").hidden = true;
    put($("#result-actions"));
  }
}

// -- the connection -------------------------------------------------------------------------------------------------

function state(name) {
  if (name === connection && $("#connection").firstChild) return;
  connection = name;
  const [tone, text] = {
    live: ["good", _("Live")],
    reconnecting: ["warn", _("Reconnecting…")],
    offline: ["bad", _("Connection lost, numbers from {time}", { time: clock(course.at || Date.now()).slice(0, 5) })],
  }[name];
  const box = $("#connection");
  box.className = `conn ${tone}`;
  put(box, h("span", { class: name === "live" ? "pulse" : "pulse still" }), text);
  $("#live").classList.toggle("stale", name === "offline");
  if (name === "live") put($("#trouble"));
}

/** Whether the server is there; throws what ends the following. */
async function check() {
  try {
    run = await get(path);
    return true;
  } catch (error) {
    if (error.status === 404 || error.status === 401 || !(error instanceof Failure)) throw error;
    return false;
  }
}

function ended({ code, reason, error }) {
  $("#connection").hidden = true;
  if (code === 1000) return refresh();
  if (error?.status === 401) return; // on the way to sign in
  if (code === 1008 && course.seq) return restart(); // another journal than the one that was read, from a backup
  const trouble = error ?? new Failure(0, { message: reason || _("The run can't be followed."), fix: "" });
  put($("#trouble"), failure(trouble), h("p", {}, h("a", { href: "/runs" }, _("All runs"))));
  $("#live").classList.add("stale");
}

function missing(error) {
  put($("#trouble"), failure(error), h("p", {}, h("a", { class: "btn", href: "/runs" }, _("All runs"))));
  if (!error.status) setTimeout(() => begun(), RETRY);
}

function damaged() {
  actions.cause({ status: "damaged", outside: false }, run.problem);
}

// -- drawing --------------------------------------------------------------------------------------------------------

let due = false;
let drawnAt = 0;

/** Draw soon: not more often than can be read, and not where nobody looks. */
function later() {
  if (due || document.hidden || !course) return;
  due = true;
  setTimeout(() => requestAnimationFrame(draw), Math.max(0, drawnAt + PAUSE - performance.now()));
}

function draw() {
  due = false;
  drawnAt = performance.now();
  title();
  const standing = $("#badge");
  if (standing.dataset.status !== course.status) {
    standing.dataset.status = course.status;
    put(standing, badge(course.status));
    actions.queue(course, refresh);
  }
  actions.draw(course, refresh);
  actions.cause(course, run.problem);
  if (!$("#live").open) return;
  pace.draw(course, run.config, display);
  drawBoard(course, live);
  const after = course.done ? _("after epoch {n}", { n: number(course.done) }) : "";
  const said = OVER.includes(course.status) ? _("by the adapters that were kept") : after;
  if ($("#board-when").textContent !== said) $("#board-when").textContent = said;
  charts();
  logs.draw(log, $("#log"));
}

function title() {
  const name = run.dataset?.name || id;
  if ($("#title").textContent !== name) $("#title").textContent = name;
  const going = course && !IDLE.includes(course.status) ? `${number(Math.floor(course.percent))} % ` : "";
  const over = OVER.includes(run.status) && Boolean(run.ended_at);
  $("#took").hidden = !over;
  if (over) {
    put(
      $("#took"),
      _("finished {time}, took {duration}", { time: moment(run.ended_at), duration: duration(run.seconds) }),
    );
  }
  const wanted = `${going}${name} · OneSeek`;
  if (document.title !== wanted) document.title = wanted;
}

let resultOf = ""; // what the result was shown for
let showing = Promise.resolve();

/** The result is shown above the course of what is over, below that of what could go on. */
async function result() {
  const box = $("#result");
  const key = `${run.status} ${run.current_epoch} ${run.ended_at}`;
  if (key === resultOf && !box.hidden) return;
  resultOf = key;
  if (OVER.includes(run.status) || run.documents) {
    $("#live").before(box);
    $("#live summary").hidden = false;
  } else $("#live").after(box);
  const { show } = await import("./result.js");
  showing = showing.then(() => show(run));
  await showing;
  box.hidden = !IDLE.includes(run.status) && !run.documents; // it may have been resumed meanwhile
}

// -- charts ---------------------------------------------------------------------------------------------------------

let epochsDrawn = "";
let stepsDrawn = 0;
let stepsKnown = -1;
let stepsLater = 0;

function charts() {
  const key = `${course.done} ${course.status} ${course.models.map((model) => (gone(model) ? 1 : 0))} ${metric}`;
  if (key !== epochsDrawn) {
    epochsDrawn = key;
    validation();
    if (display.show_weights !== false) weights();
    if (display.show_lr_multipliers !== false) rates();
    stepsKnown = -1;
  }
  const pause = stepsDrawn + CHART_PAUSE - performance.now();
  clearTimeout(stepsLater);
  if (stepsKnown === course.events) return;
  if (pause > 0 && stepsKnown !== -1) stepsLater = setTimeout(later, pause);
  else steps();
}

const axis = () => ({ label: _("Epoch"), from: 0, to: course.total });
const lines = (points, dead) =>
  course.models.map((model) => ({
    place: model.place,
    name: model.name,
    points: points(model),
    dead: gone(model) ? dead(gone(model)) : null,
  }));
const silent = () => "";
const causeOf = ({ problem }) => problem;

function validation() {
  const byLoss = metric === "loss" || course.rankBy === "val_loss";
  const both = course.rankBy !== "val_loss" && display.show_loss_per_model !== false;
  chart($("#chart-validation"), {
    title: byLoss ? _("Validation loss") : _("Validation bits per byte"),
    note: byLoss && course.rankBy !== "val_loss" ? _("not to be compared between tokenizers") : _("lower is better"),
    x: axis(),
    series: lines((model) => (byLoss ? model.losses : ranked(course, model)), causeOf),
    digits: 3,
    better: "lower",
    empty: _("The first values come at the end of the first epoch."),
    controls: (chooser ??= metricSwitch()),
  });
  chooser.hidden = !both;
}

let chooser = null;

function metricSwitch() {
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
          later();
        },
      }),
      text,
    );
  return h(
    "fieldset",
    { class: "seg tiny" },
    h("legend", { class: "vh" }, _("What the chart shows")),
    choice("ranked", _("Bits per byte")),
    choice("loss", _("Loss")),
  );
}

function weights() {
  const rule = run.config?.adaptive_weights;
  const limits = rule && { low: pace.plain(rule.min_multiplier), high: pace.plain(rule.max_multiplier) };
  $("#chart-weights").hidden = false;
  chart($("#chart-weights"), {
    title: _("Weights"),
    note: !rule?.enabled ? "" : _("between {low} and {high}", limits),
    x: axis(),
    series: lines((model) => (course.done ? model.weights : []), silent),
    digits: 2,
    better: null,
    baseline: 1,
    empty: rule?.enabled === false ? _("Adaptive weights are off.") : _("They move at the end of each epoch."),
  });
}

function rates() {
  const told = course.models.some((model) => model.rates.length);
  $("#chart-rates").hidden = course.outside && !told;
  if ($("#chart-rates").hidden) return;
  chart($("#chart-rates"), {
    title: _("Learning rate"),
    note: _("base rate × weight"),
    x: axis(),
    series: lines((model) => model.rates, silent),
    say: small,
    better: null,
    empty: _("They are known when the first epoch begins."),
  });
}

/** Training loss: of single steps while there are enough of them, otherwise the mean of each epoch. */
function steps() {
  stepsDrawn = performance.now();
  stepsKnown = course.events;
  const most = Math.max(...course.models.map((model) => model.steps.length));
  const single = !course.done || most >= 8 * course.done;
  const any = single ? most > 0 : true;
  chart($("#chart-training"), {
    title: _("Training loss"),
    note: !any ? "" : single ? _("per step, smoothed") : _("mean of each epoch, single steps behind"),
    x: axis(),
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

function over(place) {
  for (const figure of document.querySelectorAll("#live .chart")) highlight(figure, place);
}
