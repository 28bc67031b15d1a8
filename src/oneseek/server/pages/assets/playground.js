// The Playground: one prompt, put to a run's adapters and to their base models, each answer shown while it is written.
import { $, $$, _, failed, failure, get, h, icon, mark, moment, number, plain, put, reached, tell } from "./ui.js";
import { OVER, called, outside, place } from "./standing.js";
import { begun, drawn, spoken } from "./exchange.js";
import { lines } from "./lines.js";

const HISTORY = "oneseek.playground";
const PROMPT = "oneseek.prompt"; // what is being written: signing in again must not lose it
const MOST_KEPT = 20; // exchanges of this visit
const NUMBERS = { tokens: "maxNewTokens", temperature: "temperature", "top-p": "topP", seed: "seed" };

let run = null; // of GET /api/runs/{id}
let asking = null; // the AbortController of the question that is being answered
let now = null; // the exchange that is shown in full

start();

async function start() {
  put($("#none"));
  try {
    await begin();
  } catch (error) {
    put($("#none"), failure(error, start));
  }
  $("#none").hidden = !$("#none").hasChildNodes();
}

async function begin() {
  const { runs } = await get("/api/runs");
  const finished = runs.filter((each) => OVER.includes(each.status) && !outside(each));
  const wanted = new URLSearchParams(location.search).get("run");
  drawHistory();
  if (!finished.length) return nothing(runs.some((each) => each.run_id === wanted) && wanted);
  const known = finished.some((each) => each.run_id === wanted);
  put(
    $("#run"),
    finished.map((each) => h("option", { value: each.run_id }, label(each))),
  );
  if (wanted && !known) {
    say($("#run-said"), _("{run} has no adapters to ask, so another run is chosen.", { run: wanted }), "warn");
  }
  $("#run").value = known ? wanted : finished[0].run_id;
  await choose();
  $("#prompt").value ||= remembered();
  $("#ask").hidden = false;
  listen();
}

function nothing(wanted) {
  $("#none").append($("#nothing"));
  $("#nothing").hidden = false;
  if (!wanted) return;
  const link = $("#wanted");
  link.href = `/runs/${encodeURIComponent(wanted)}`;
  link.textContent = _("See how {run} goes", { run: wanted });
  link.hidden = false;
}

const label = (each) =>
  [
    each.dataset?.name ?? each.run_id,
    moment(each.created_at),
    each.base_models.map((key) => called(each, key)).join(", "),
  ].join(" · ");

function listen() {
  $("#run").addEventListener("change", () => {
    say($("#run-said"), "");
    change();
  });
  $("#ask").addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  $("#ask").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      ask();
    }
  });
  $("#ask").addEventListener("input", (event) => {
    if (event.target.hasAttribute("aria-invalid")) right(event.target);
    if (event.target.name === "model") sayModels();
    if (event.target.id === "prompt") remember(event.target.value);
    sayHow();
  });
  $("#stop").addEventListener("click", () => asking?.abort());
  $("#forget").addEventListener("click", () => {
    keep([]);
    drawHistory();
    $("#prompt").focus();
  });
  sayHow();
}

// -- who is asked ---------------------------------------------------------------------------------------------------

/** Take another run; where the server does not tell of it, the one before stays. */
async function change(models) {
  const wanted = $("#run").value;
  try {
    await choose(models);
    history.replaceState(null, "", `?run=${encodeURIComponent(run.run_id)}`);
  } catch (error) {
    if ($("#run").value === wanted) $("#run").value = run.run_id;
    failed(error);
  }
}

/** Take the run that is chosen: its models (all of them, unless some are named), and its sample prompts. */
async function choose(models = null) {
  const id = $("#run").value;
  const told = await get(`/api/runs/${encodeURIComponent(id)}`);
  if (id !== $("#run").value) return; // another one was chosen meanwhile
  run = told;
  put(
    $("#chips"),
    run.base_models.map((key) => chip(key, models)),
  );
  const chats = run.dataset?.strategy !== "standard";
  $("#system").readOnly = !chats;
  $("#system").setAttribute("aria-disabled", String(!chats));
  say(
    $("#system-said"),
    chats
      ? _("Goes before the prompt, as in the run’s chats.")
      : _("This run learned plain text, which has no system message."),
  );
  const prompts = run.sample_prompts ?? [];
  $("#suggested").hidden = !prompts.length;
  put(
    $("#suggested"),
    h("span", { class: "muted" }, _("Sample prompts of this run:")),
    prompts.map((prompt) =>
      h("button", { class: "chip", type: "button", onclick: () => suggest(prompt) }, short(prompt)),
    ),
  );
}

/** A model of the run; one without an adapter is there, with the reason. */
function chip(key, models) {
  const able = run.leaderboard.find((each) => each.model === key)?.status === "verified";
  const box = h("input", {
    type: "checkbox",
    name: "model",
    value: key,
    checked: able && (!models || models.includes(key)),
    "aria-disabled": able ? null : "true",
  });
  return h(
    "label",
    { class: able ? "chip" : "chip out" },
    box,
    mark(place(run, key)),
    called(run, key),
    !able && h("small", {}, _("has no adapter")),
  );
}

function suggest(prompt) {
  $("#prompt").value = prompt;
  remember(prompt);
  right($("#prompt"));
  $("#prompt").focus();
}

const chosen = () => $$("#chips input:checked").map((input) => input.value);

// -- what is asked --------------------------------------------------------------------------------------------------

/** What POST …/generate takes; null where something is wrong, which is said at its field, the first of them focused. */
function asked() {
  const fields = [$("#prompt"), ...Object.keys(NUMBERS).map((id) => $(`#${id}`))];
  const wrong = fields.filter((each) => !right(each));
  if (!sayModels()) wrong.unshift($("#chips input"));
  if (wrong.length) {
    if (wrong[0].closest("details")) wrong[0].closest("details").open = true;
    wrong[0].focus();
    return null;
  }
  const system = $("#system").readOnly ? "" : $("#system").value;
  return {
    prompts: [$("#prompt").value],
    models: chosen(),
    base: $("#base").checked,
    ...(system.trim() && { system }),
    ...Object.fromEntries(Object.entries(NUMBERS).map(([id, name]) => [name, Number($(`#${id}`).value)])),
  };
}

/** Whether a field holds something that can be used; what is wrong is said below it. */
function right(input) {
  const numeric = input.type === "number";
  const good = numeric ? input.validity.valid : input.value.trim() !== "";
  if (good) input.removeAttribute("aria-invalid");
  else input.setAttribute("aria-invalid", "true");
  const wrong = numeric ? _("Write a number, {bounds}.", { bounds: input.dataset.bounds }) : _("Write what to ask.");
  say($(`#${input.id}-said`), good ? (input.dataset.bounds ?? "") : wrong, good ? "" : "bad");
  return good;
}

function sayModels() {
  const some = chosen().length > 0;
  say($("#models-said"), some ? "" : _("Choose at least one model."), "bad");
  return some;
}

/** A line below a field: an error with its icon, or a plain word. */
function say(at, text, tone = "") {
  at.hidden = !text;
  put(at, text && tone && icon(tone === "bad" ? "err" : "warn", tone), text && h("span", {}, text));
}

/** What answers are drawn with, beside the fold that hides it. */
function sayHow() {
  const [most, heat] = ["tokens", "temperature"].map((id) => Number($(`#${id}`).value));
  const choice = heat > 0 ? _("temperature {n}", { n: plain(heat) }) : _("always the likeliest token");
  $("#how-said").textContent = `${_("up to {n} tokens", { n: number(most) })}, ${choice}`;
}

// -- asking ---------------------------------------------------------------------------------------------------------

/** Ask, and show each answer while it is written. */
async function ask() {
  const body = asking ? null : asked();
  if (!body) return;
  if (now) drawHistory(); // what was shown in full goes below
  const of = run;
  const models = of.base_models
    .filter((key) => body.models.includes(key))
    .map((key) => ({ key, name: called(of, key), place: place(of, key) }));
  const exchange = (now = begun(of.run_id, of.dataset?.name ?? of.run_id, body, models));
  const view = drawn(exchange);
  const trouble = h("div");
  put($("#exchange"), trouble, view.element);
  $("#now").hidden = false;
  asking = new AbortController();
  busy(true);
  view.begin();
  sayTurn(exchange, view);
  $("#now").scrollIntoView({ block: "nearest" });
  try {
    const answer = await reached(`/api/runs/${encodeURIComponent(of.run_id)}/generate`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal: asking.signal,
      patience: 0,
    });
    for await (const line of lines(answer)) {
      if (line.error) throw Object.assign(new Error(line.error.message), line.error);
      hear(line, exchange, view);
    }
    view.end("failed");
    $("#now-said").textContent = _("{n} of {all} answers", { n: count(exchange), all: exchange.answers.length });
  } catch (error) {
    view.end(error.name === "AbortError" ? "stopped" : "failed");
    $("#now-said").textContent = error.name === "AbortError" ? _("Stopped") : _("Broken off");
    if (error.name !== "AbortError") put(trouble, failure(told(error)));
  }
  asking = null;
  busy(false);
  if (exchange.answers.some((each) => each.text)) keep([exchange, ...kept()]);
}

function hear(line, exchange, view) {
  const { state, variant, model, text } = view.hear(line);
  if (state !== "done") return;
  const { name } = exchange.models.find(({ key }) => key === model);
  tell(`${spoken(name, variant === "base")}: ${text}`);
  sayTurn(exchange, view);
}

/** The connection that breaks in the middle of an answer says so in the browser's own words. */
const told = (error) =>
  error instanceof TypeError
    ? { message: _("The connection to the server was lost."), fix: _("Ask again when it answers.") }
    : error;

function sayTurn(exchange, view) {
  const at = view.turn();
  if (at < 0) return;
  const { model, variant } = exchange.answers[at];
  const { name } = exchange.models.find(({ key }) => key === model);
  $("#now-said").textContent = _("{n} of {all}: {name}", {
    n: at + 1,
    all: exchange.answers.length,
    name: spoken(name, variant === "base"),
  });
}

const count = (exchange) => exchange.answers.filter((each) => each.state === "done").length;

function busy(yes) {
  if (yes) $("#go").setAttribute("aria-disabled", "true");
  else $("#go").removeAttribute("aria-disabled");
  const held = document.activeElement === $("#stop");
  $("#stop").hidden = !yes;
  if (held && !yes) $("#go").focus();
  $("#exchange").setAttribute("aria-busy", String(yes));
}

// -- this visit -----------------------------------------------------------------------------------------------------

function kept() {
  try {
    return JSON.parse(sessionStorage.getItem(HISTORY)).filter(isExchange);
  } catch {
    return []; // none yet, or what another version wrote
  }
}

const isExchange = ({ title, at, asked: { prompts }, models, answers }) =>
  [title, prompts[0], ...answers.map(({ text }) => text)].every((text) => typeof text === "string") &&
  Number.isFinite(at) &&
  answers.every(({ model }) => models.some(({ key }) => key === model));

function keep(exchanges) {
  try {
    sessionStorage.setItem(HISTORY, JSON.stringify(exchanges.slice(0, MOST_KEPT)));
  } catch {
    // private windows keep nothing, and long answers may not fit: the page works all the same
  }
}

function remember(prompt) {
  try {
    sessionStorage.setItem(PROMPT, prompt);
  } catch {
    // it is only lost with the page, then
  }
}

function remembered() {
  try {
    return sessionStorage.getItem(PROMPT) ?? "";
  } catch {
    return "";
  }
}

function drawHistory() {
  const exchanges = kept();
  $("#before").hidden = !exchanges.length;
  put(
    $("#history"),
    exchanges.map((exchange) => {
      const fold = h(
        "details",
        {},
        h(
          "summary",
          {},
          icon("chev"),
          h("span", { class: "history-prompt" }, short(exchange.asked.prompts[0], 100)),
          h("span", { class: "muted" }, exchange.title, " · ", moment(exchange.at)),
        ),
      );
      fold.addEventListener(
        "toggle",
        () =>
          fold.append(
            drawn(exchange).element,
            h("button", { class: "btn small", type: "button", onclick: () => use(exchange) }, _("Use this again")),
          ),
        { once: true },
      );
      return h("li", {}, fold);
    }),
  );
}

/** Fill the form as it was for an earlier exchange. */
async function use({ runId, asked: was }) {
  if ($$("#run option").some((option) => option.value === runId)) {
    $("#run").value = runId;
    await change(was.models);
  }
  $("#prompt").value = was.prompts[0];
  $("#system").value = was.system ?? "";
  $("#base").checked = was.base;
  for (const [id, name] of Object.entries(NUMBERS)) $(`#${id}`).value = was[name];
  for (const each of $$("[aria-invalid]", $("#ask"))) right(each);
  sayHow();
  $("#prompt").focus();
}

const short = (text, most = 60) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
