// One run: followed while it goes on, shown as it is when it does not.
import { $, Failure, _, clock, duration, failure, get, h, moment, number, part, passing, put, tell } from "./ui.js";
import * as actions from "./actions.js";
import { board } from "./board.js";
import { highlight } from "./charts.js";
import { apply, begin, ranking } from "./course.js";
import * as curves from "./curves.js";
import { follow } from "./follow.js";
import * as logs from "./log.js";
import * as pace from "./pace.js";
import { HALTED, OVER, standing } from "./standing.js";

const PAUSE = 250; // ms between two drawings
const SHARE = 4; // times as long as drawing took nothing is drawn: hundreds of models must not take all of the browser
const QUEUE_PAUSE = 4000;
const RETRY = 3000;
const IDLE = [...OVER, ...HALTED];
const id = decoded(location.pathname.split("/").at(-1));
const path = `/api/runs/${encodeURIComponent(id)}`;

let run = null; // its document
let course = null;
let display = {};
let drawBoard = null;
let log = logs.empty();
let awaited = false; // whether the result comes first
let drawn = false; // whether it has been drawn at all
let live = false; // all that was written before has been read
let connection = "reconnecting";
let queueing = 0;
let asked = 0; // times for the document

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
  put($("#badge"), standing(run));
  if (run.documents) return result();
  if (run.status === "damaged" || !run.base_models) return damaged();
  display = run.config?.live_leaderboard?.display ?? {};
  awaited = OVER.includes(run.status);
  if (run.status === "certified") whenOpened();
  else restart();
  try {
    if (IDLE.includes(run.status)) await result();
  } finally {
    awaited = false;
    reveal();
  }
}

/** Show how it goes as a whole, not before what stands above it: so nothing jumps. */
function reveal() {
  $("#live").hidden = awaited || (course !== null && !drawn);
}

/** What is over is told by its result: how it went is read when somebody wants to know. */
function whenOpened() {
  const box = $("#live");
  box.open = false; // is told as a toggle, too
  box.addEventListener("toggle", function opened() {
    if (!box.open) return;
    box.removeEventListener("toggle", opened);
    restart();
  });
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
  fetchRest();
}

/** What the end of a run needs is fetched while the server is there: a browser that could not load a module does not try
 * again before the page is loaded anew. */
function fetchRest() {
  const idle = window.requestIdleCallback ?? setTimeout;
  idle(() => import("./result.js").catch(() => {}));
}

/** A part of an address, as it is where somebody wrote it by hand. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

// -- what comes -----------------------------------------------------------------------------------------------------

function take(events) {
  for (const event of events) {
    if (event.type === "heartbeat") beat(event);
    else if (event.seq > course.seq) {
      logs.note(log, event, course);
      const before = live && event.type === "epoch_end" ? ranking(course)[0] : null;
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
  const mine = ++asked;
  try {
    const told = await get(path);
    if (mine !== asked) return; // a later answer has come or will
    run = told;
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
    offline: [
      "bad",
      _("Connection lost, numbers from {time}", { time: clock(course.at || Date.now(), { seconds: false }) }),
    ],
  }[name];
  const box = $("#connection");
  box.className = `conn ${tone}`;
  put(box, h("span", { class: name === "live" ? "pulse" : "pulse still" }), text);
  quiet();
  $("#live").classList.toggle("stale", name === "offline");
  if (name === "offline") later();
  if (name === "live") put($("#trouble"));
}

/** What does not move is not called live. */
function quiet() {
  $("#connection").hidden = connection === "live" && IDLE.includes(course.status);
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
  const trouble = error ?? new Failure(0, { message: reason || _("The run can’t be followed."), fix: "" });
  put($("#trouble"), failure(trouble), h("p", {}, h("a", { href: "/runs" }, _("All runs"))));
  $("#live").classList.add("stale");
}

function missing(error) {
  put($("#trouble"), failure(error), h("p", {}, h("a", { class: "btn", href: "/runs" }, _("All runs"))));
  if (passing(error)) setTimeout(begun, Math.max(RETRY, 1000 * error.wait));
}

function damaged() {
  actions.cause({ status: "damaged", outside: false }, run);
}

// -- drawing --------------------------------------------------------------------------------------------------------

let due = false;
let free = 0; // when it may be drawn again

/** Draw soon: not more often than can be read, and not where nobody looks. */
function later() {
  if (due || document.hidden || !course) return;
  due = true;
  setTimeout(() => requestAnimationFrame(drawNow), Math.max(0, free - performance.now()));
}

function drawNow() {
  due = false;
  const began = performance.now();
  draw();
  free = performance.now() + Math.max(PAUSE, SHARE * (performance.now() - began));
}

function draw() {
  title();
  const place = $("#badge");
  if (place.dataset.status !== course.status) {
    place.dataset.status = course.status;
    put(place, standing({ ...run, status: course.status }));
    if (live && course.status !== "completed") tell(place.textContent);
    quiet();
    actions.queue(course, refresh);
  }
  actions.draw(course, refresh);
  actions.cause(course, run);
  if (!$("#live").open) return;
  pace.draw(course, run.config, display);
  drawBoard(course, live);
  const after = course.done ? _("after epoch {n}", { n: number(course.done) }) : "";
  const said = OVER.includes(course.status) ? _("by the adapters that were kept") : after;
  if ($("#board-when").textContent !== said) $("#board-when").textContent = said;
  curves.draw(course, run.config, display, later);
  logs.draw(log, $("#log"));
  drawn = true;
  reveal();
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
  const module = await part(import("./result.js"));
  if (!module) return;
  resultOf = key;
  if (OVER.includes(run.status) || run.documents) {
    $("#live").before(box);
    $("#live summary").hidden = false;
  } else $("#live").after(box);
  showing = showing.catch(() => {}).then(() => module.show(run));
  await showing;
  box.hidden = !IDLE.includes(run.status) && !run.documents; // it may have been resumed meanwhile
  later(); // its buttons have come
}

/** Let a model stand out in every chart. */
function over(place) {
  for (const figure of document.querySelectorAll("#live .chart")) highlight(figure, place);
}
