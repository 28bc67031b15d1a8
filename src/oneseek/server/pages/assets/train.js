// The Train page: base models as cards, and the beginning of everything else on it. What the first look does not need
// comes when it is needed: lora.js and overrides.js with a selected model, dataset.js with a dataset, lookup.js with a
// model that is not here.
import * as form from "./form.js";
import { begin as beginSettings, message, toneOf } from "./settings.js";
import {
  $,
  _,
  _n,
  badge,
  bytes,
  clock,
  count,
  failure,
  formatName,
  get,
  h,
  icon,
  mark,
  number,
  part,
  passing,
  put,
  redraw,
} from "./ui.js";

const SELECTION = "model.base_models";
const EMPTY_PAUSE = 5000; // milliseconds between two looks for a first model
const PATIENCE = 400; // milliseconds that the cards wait for what the server says of them

const list = $("#models-list");
const cards = new Map(); // name -> its card
const others = new Map(); // name of the selection that is not here -> {model} or {error}, empty while it is looked up
const tasks = new Map(); // name -> {element, going} of its download or conversion
let models = [];
let parts = new Map(); // id on the hub -> a model of which only a part is here
let listed = false; // whether the server has told which models there are
let unreached = false; // whether it did not answer when it was asked last
let datasets = null; // until the server has told them
let strategy = null; // what the chosen dataset is used for, as the server tells it

async function begin() {
  form.on("change", changed);
  form.on("verdict", answered);
  bind();
  beginSettings();
  const [told] = await Promise.all([refresh(), listDatasets()]);
  const judged = form.begin();
  await Promise.race([judged, new Promise((resolve) => setTimeout(resolve, PATIENCE))]);
  list.removeAttribute("aria-busy");
  await judged;
  if (told && (parts.size || chosen().some((name) => modelOf(name)?.missing_bytes))) (await lookup()).resume();
}

// -- what other parts of the page ask -------------------------------------------------------------------------------

/** The base models that are selected, in the order of their markers: keys, and ids of what is not here. */
export const chosen = () => names(form.value(SELECTION));

/** What the API tells of a selected model; undefined where nobody knows it (yet). */
export const modelOf = (name) =>
  models.find((model) => model.key === name) ?? others.get(name)?.model ?? parts.get(name);

/** The key under which a selected model has settings of its own. */
export const keyOf = (name) => (meant(name) ?? modelOf(name))?.key ?? normalized(name.split("@")[0]);

/** What a selected model is called: by its name, and by its key too where another one has the same name. */
export function called(name, model = modelOf(name)) {
  if (!model) return name;
  const all = [...models, ...parts.values(), ...[...others.values()].map((other) => other.model)];
  const twin = all.some((other) => other && other.key !== model.key && other.display_name === model.display_name);
  return twin ? _("{name} ({key})", { name: model.display_name, key: model.key }) : model.display_name;
}

/** Ask for another format of the chosen dataset, one that suits a strategy or a method. */
export const convertDataset = async (suits) => (await imported.get("./dataset.js"))?.convert(suits);

/** The stored dataset of a name as the API tells it, asked for once as long as one is chosen.
 * @throws {Failure} there is none, or the server did not answer. */
export function datasetOf(name) {
  if (asked.name !== name) {
    const told = get(`/api/datasets/${encodeURIComponent(name)}`);
    asked = { name, told };
    told.catch(() => asked.told === told && (asked = {})); // it may be asked for again
  }
  return asked.told;
}

let asked = {};

// -- what lookup.js needs -------------------------------------------------------------------------------------------

/** Ask again which models there are. Answers whether the server told. */
export async function refresh() {
  try {
    const told = (await get("/api/models")).models;
    models = usableFirst(told.filter((model) => !isPart(model)));
    parts = new Map(told.filter(isPart).map((model) => [model.hub_id, model]));
  } catch (error) {
    put($("#models-failed"), failure(error));
    unreached = true;
    return false;
  }
  put($("#models-failed"));
  listed = true;
  unreached = false;
  for (const [name, { error }] of others) if (error && passing(error)) others.delete(name); // it is asked for again
  select(chosen());
  drawCards();
  return true;
}

/** Select these and no others; settings of their own go with those that are not selected any more. */
export function select(wanted) {
  const keys = [...new Set(wanted.map((name) => meant(name)?.key ?? name))];
  const stay = keys.map(keyOf);
  const gone = chosen()
    .map(keyOf)
    .filter((key) => !stay.includes(key))
    .map((key) => `per_model.${key}.`);
  const own = Object.keys(form.settings()).filter((field) => gone.some((start) => field.startsWith(start)));
  form.set({ ...Object.fromEntries(own.map((field) => [field, null])), [SELECTION]: keys.length ? keys : null });
}

/** The model of the list that a name means: its key, its id on the hub, or a part of the only key that has it. */
export function meant(name) {
  const exact = models.find((model) => model.key === name || model.hub_id === name);
  if (exact || name.includes("/")) return exact;
  const key = normalized(name);
  const having = key ? models.filter((model) => model.key.includes(key)) : [];
  return models.find((model) => model.key === key) ?? (having.length === 1 ? having[0] : undefined);
}

/** Remember what the hub told of a model, or that it refused. */
export function learn(name, told) {
  others.set(name, told);
  learnt ||= setTimeout(() => {
    learnt = 0;
    drawCards(); // once for all that are told of by now: a file may name hundreds
  });
}

let learnt = 0;

/** Show a task on the card of a model, going on or failed; null takes it away. */
export function work(name, element, going = true) {
  if (element) tasks.set(name, { element, going });
  else tasks.delete(name);
  drawCards();
}

/** The badges of a model: whether it is here, and whether it chats. */
export function badges(model) {
  const here = model.source !== "hub" && !model.missing_bytes && !isPart(model);
  return [
    here && model.usable && badge("good", "check", _("Cached {size}", { size: bytes(model.size_bytes) })),
    isPart(model) && badge("accent", "down", _("Partly here")),
    here &&
      !model.usable &&
      (isPickled(model) ? badge("warn", "warn", _("Pickle only")) : badge("bad", "err", _("Can’t be used"))),
    model.missing_bytes > 0 && badge("accent", "down", _("{size} to download", { size: bytes(model.missing_bytes) })),
    model.has_chat_template ? badge("", "chat", _("Chat")) : badge("", "ban", _("No chat template")),
  ];
}

/** Parameters, family, context and licence, where the model's files tell them. */
export const facts = (model) =>
  [
    model.parameters > 0 && count(model.parameters),
    model.model_type,
    model.context_length && _("{n} context", { n: binary(model.context_length) }),
    model.licence && _("licence {name}", { name: model.licence }),
  ]
    .filter(Boolean)
    .join(" · ");

// -- what happens ---------------------------------------------------------------------------------------------------

function bind() {
  $("#models-search").addEventListener("input", filter);
  $("#models").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !event.target.matches("input")) return;
    event.preventDefault(); // no field of this section sends the form
    if (event.target.id === "hub") lookUp();
  });
  $("#hub-look").addEventListener("click", lookUp);
  $("[data-hub]").addEventListener("click", (event) => {
    $("#hub").value = event.currentTarget.dataset.hub;
    lookUp();
  });
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && refresh());
  bindDataset();
}

/** The server has judged, or did not answer: what it could not tell before is asked for when it does. */
function answered() {
  if (form.failure()) return drawCards();
  if (!datasets) listDatasets().then(readStrategy);
  if (unreached) refresh();
  else drawCards();
}

function changed(fields) {
  if (fields.length) fetchRest();
  if (fields.includes("data.dataset")) readStrategy();
  if (fields.includes(SELECTION)) select(chosen()); // names that a file or a draft may have become keys
  if (fields.includes(SELECTION) || fields.includes("data.strategy")) drawCards();
  if (!chosen().length) return;
  importOnce("./lora.js");
  importOnce("./overrides.js");
}

const imported = new Map();

/** A module that is loaded when it is needed, and begun once. */
function importOnce(address, begins = (module) => module.begin()) {
  if (!imported.has(address)) imported.set(address, loaded(address, begins));
  return imported.get(address);
}

async function loaded(address, begins) {
  const module = await part(import(address));
  if (!module) return new Promise(() => {}); // who waits for it has been told
  begins(module);
  return module;
}

/** What a form that is being filled in will need is fetched while the server is there: a browser that could not load a
 * module does not try again before the page is loaded anew. */
function fetchRest() {
  if (fetchRest.begun) return;
  fetchRest.begun = true;
  const idle = window.requestIdleCallback ?? setTimeout;
  const rest = ["config", "dataset", "estimate", "lookup", "lora", "overrides", "review", "ways"];
  idle(() => rest.forEach((name) => import(`./${name}.js`).catch(() => {})));
}

const lookup = () => importOnce("./lookup.js");
const lookUp = async () => (await lookup()).lookUp($("#hub").value.trim());

// -- cards ----------------------------------------------------------------------------------------------------------

function drawCards() {
  const selection = chosen();
  for (const name of listed ? selection.filter((name) => !meant(name) && !others.has(name)) : []) {
    others.set(name, {});
    lookup().then((module) => module.find(name));
  }
  const elsewhere = [...parts.keys(), ...selection, ...tasks.keys()].filter((name) => !meant(name));
  const wanted = [...models.map((model) => model.key), ...elsewhere];
  for (const [name, card] of cards) if (!wanted.includes(name)) (card.remove(), cards.delete(name));
  for (const name of new Set(wanted)) drawCard(name, selection.indexOf(name));
  drawCount(selection);
  drawEmpty();
  filter();
}

function drawCard(name, place) {
  const card = cards.get(name) ?? newCard(name);
  const model = modelOf(name);
  const error = meant(name) ? null : others.get(name)?.error;
  const known = model ?? { problems: [], usable: true };
  const selected = place >= 0;
  const why = reasons(name, model, error, selected);
  const off = !selected && why.some((reason) => reason.off);
  const input = $("input", card);
  const focused = card.contains(document.activeElement);
  card.classList.toggle("off", off);
  input.checked = selected;
  input.ariaDisabled = off ? "true" : null;
  redraw($(".name", card), called(name), () => [called(name)]);
  redraw($(".mk-wrap", card), place, () => [selected && mark(place)]);
  redraw($(".facts", card), facts(known), () => [facts(known)]);
  const standing = model && [model.size_bytes, model.missing_bytes, model.usable, model.source];
  redraw($(".row", card), [standing, listed, error?.message], () => [
    model ? badges(model) : listed && !error && badge("", "clock", _("Asking the hub")),
  ]);
  redraw($(".notes", card), why, () => why.map((reason) => note(name, reason)));
  put($(".work", card), tasks.get(name)?.element);
  if (focused && !card.contains(document.activeElement)) input.focus(); // the button that was pressed is gone
}

function newCard(name) {
  const id = `model-${cards.size}-${name.replace(/[^\w-]/g, "-")}`;
  const card = h(
    "li",
    { class: "model", "data-model": name },
    h(
      "label",
      {},
      h("input", {
        class: "check",
        type: "checkbox",
        value: name,
        "aria-describedby": `${id}-is ${id}-why`,
        onchange: (event) =>
          select(event.target.checked ? [...chosen(), name] : chosen().filter((other) => other !== name)),
      }),
      h("span", { class: "name" }),
      h("span", { class: "mk-wrap" }),
      h("span", { class: "facts" }),
    ),
    h("div", { class: "row", id: `${id}-is` }),
    h("div", { class: "notes", id: `${id}-why` }),
    h("div", { class: "work" }),
  );
  cards.set(name, card);
  list.insertBefore(card, following(name));
  return card;
}

/** The card before which that of a model belongs: as the server lists them, then those of elsewhere. */
function following(name) {
  const place = models.findIndex((model) => model.key === name);
  const later = place < 0 ? [] : models.slice(place + 1).map((model) => model.key);
  const elsewhere = place < 0 ? [] : [...cards.keys()].filter((other) => !meant(other));
  return cards.get([...later, ...elsewhere].find((other) => other !== name && cards.has(other))) ?? $("#models-add");
}

/** Why a card can't be selected or what is to be known of it: texts, icons and buttons by name. `off`: it can't. */
function reasons(name, model, error, selected) {
  const refused = error && {
    icon: "err",
    tone: "bad",
    text: `${error.message} ${error.fix}`,
    language: error.language,
  };
  if (!model) return refused ? [refused] : [];
  const about = form.findings("model").concat(form.findings("data"), form.findings("execution"));
  const findings = selected ? about.filter((finding) => finding.model === model.key) : [];
  const lora = selected ? form.findings("lora").concat(form.findings("per_model")) : [];
  const uncovered = lora.filter(
    (finding) => finding.model === model.key && /lora\.target_modules$/.test(finding.field),
  );
  const judged = findings.some((finding) => finding.rule === "base-models-usable");
  const convertible = model.source !== "hub" && isPickled(model);
  const busy = tasks.get(name)?.going;
  const needsText = !model.has_chat_template && strategyNow() === "chat" && model.usable;
  return [
    refused,
    ...(judged || isPart(model) ? [] : model.problems).map((problem) => ({
      icon: "ban",
      off: true,
      text: convertible && problem.kind === "only-pickle" ? problem.problem : `${problem.problem} ${problem.fix}`,
      language: problem.language,
    })),
    convertible && !busy && { icon: "shift", does: "convert" },
    needsText && !selected && withoutTemplate(),
    ...findings.map((finding) => ({ finding })),
    (model.missing_bytes > 0 || isPart(model)) && !busy && { icon: "down", does: "download" },
    uncovered.length && coverage(uncovered),
    model.shadows?.length && { icon: "info", shadows: model.shadows.join(", ") },
  ].filter(Boolean);
}

function coverage(found) {
  const [tone, sign] = toneOf(found);
  return { icon: sign, tone, does: "coverage" };
}

const withoutTemplate = () => ({
  icon: "ban",
  off: true,
  does: strategy === "chat" ? "dataset" : "standard",
});

function note(name, reason) {
  if (reason.finding) return h("div", { class: "why" }, message(reason.finding));
  const said = reason.does ? DOES[reason.does](name) : (reason.text ?? hides(reason.shadows));
  return h("p", { class: "why" }, icon(reason.icon, reason.tone), h("span", { lang: reason.language }, said));
}

const hides = (paths) => _("Used instead of the one of the same name in the cache: {paths}", { paths });

const DOES = {
  convert: (name) => [
    link(_("Convert to safetensors"), async () => (await lookup()).convert(name)),
    " ",
    _("Nothing in the pickle is run, and it stays."),
  ],
  download: (name) => [
    link(_("Download now"), async () => (await lookup()).pull(name)),
    " ",
    _("Else the run does, before it trains."),
  ],
  standard: () => [
    _("It has no chat template, and the strategy is Chat."),
    " ",
    link(_("Use Standard instead"), () => form.set({ "data.strategy": "standard" })),
  ],
  dataset: () => [
    _("It has no chat template, and the dataset holds chats."),
    " ",
    link(_("Convert it"), () => convertDataset({ strategy: "standard" })),
    " · ",
    h("a", { href: "#data" }, _("Choose another")),
  ],
  coverage: () => [
    _("Not every target module is in it as asked for."),
    " ",
    h("a", { href: "#coverage" }, _("See its coverage")),
  ],
};

const link = (text, does) => h("button", { class: "link", type: "button", onclick: does }, text);

// -- around the cards -----------------------------------------------------------------------------------------------

function drawCount(selection) {
  const unsaid = form.findings(SELECTION).filter((finding) => !finding.model);
  const none = unsaid.find((finding) => finding.rule === "base-models-selected");
  const rest = unsaid.filter((finding) => finding !== none);
  const [tone, sign] = toneOf(none ? [none] : []);
  redraw($("#models-count"), [selection.length, cards.size, none, tone], () => [
    cards.size > 0 && countText(selection.length),
    // of an empty selection the server says how a command is told one; here it is a click
    none && !selection.length && h("span", { class: tone }, icon(sign), _("Select at least one")),
  ]);
  redraw($("#models-said"), rest, () => rest.map(message));
}

const countText = (n) => _("{n} of {all} selected", { n: number(n), all: number(cards.size) });

function filter() {
  const wanted = $("#models-search").value.trim().toLowerCase();
  let shown = 0;
  for (const [name, card] of cards) {
    const { key = "", display_name: shownName = "", model_type: family = "" } = modelOf(name) ?? {};
    card.hidden = ![name, key, shownName, family].some((text) => text.toLowerCase().includes(wanted));
    if (!card.hidden) shown += 1;
  }
  $("#models-find").hidden = !cards.size;
  $("#models-add").hidden = !cards.size;
  put($("#models-found"), !wanted ? "" : shown ? _n(shown, "{n} model", "{n} models") : noneFound());
}

function noneFound() {
  const search = $("#models-search");
  const clear = () => {
    search.value = "";
    filter();
    search.focus();
  };
  return [_("No model matches “{text}”.", { text: search.value.trim() }), " ", link(_("Clear"), clear)];
}

let looking = 0;

/** Without any model there is nothing to set: how to get one is said instead, until there is one. */
function drawEmpty() {
  const empty = listed && !cards.size;
  $("#form").toggleAttribute("data-empty", empty);
  $("#models-empty").hidden = !empty;
  list.hidden = empty;
  const place = $(empty ? "#hub-here" : "#models-add");
  if ($("#hub-form").parentElement !== place) place.append($("#hub-form"));
  if (!empty) return void (looking = clearInterval(looking));
  put($("#models-look"), _("Looked at {time}, and again every 5 s.", { time: clock(Date.now()) }));
  looking ||= setInterval(() => document.visibilityState === "visible" && refresh(), EMPTY_PAUSE);
}

// -- the dataset, until its own module is there ----------------------------------------------------------------------

async function listDatasets() {
  const told = await get("/api/datasets").catch(() => null); // the verdict says what is wrong
  if (!told || datasets) return;
  datasets = told.datasets.filter((dataset) => dataset.format);
  if (imported.has("./dataset.js")) return; // which has the list from here on
  const options = datasets.map(({ name, rows, format }) =>
    h(
      "option",
      { value: name },
      _("{name} · {rows} rows, {format}", { name, rows: number(rows), format: formatName(format) }),
    ),
  );
  $("#data-dataset").append(...options);
}

/** The first sign that somebody turns to the dataset loads its module, which is given what it missed. */
function bindDataset() {
  const section = $("#data");
  const signs = new AbortController();
  const listen = (name, heard, on = section) => on.addEventListener(name, heard, { signal: signs.signal });
  const load = () => importOnce("./dataset.js", (module) => (signs.abort(), module.begin(datasets)));
  const take = async (files) => {
    const input = $("input[type=file]", section);
    await load();
    input.files = files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  };
  form.on("change", (fields) => fields.includes("data.dataset") && load());
  for (const sign of ["focusin", "pointerover"]) listen(sign, load);
  // A file may be dropped anywhere: beside the zone the browser would leave the page to show it.
  listen("dragenter", load, document);
  listen("dragover", (event) => event.preventDefault(), document);
  listen("drop", (event) => (event.preventDefault(), take(event.dataTransfer.files)), document);
  listen("change", ({ target }) => {
    if (target.id === "data-dataset") form.set({ "data.dataset": target.value || null });
    else if (target.files?.length) take(target.files);
  });
}

/** What the chosen dataset is used for, which decides whether a model needs a chat template. */
async function readStrategy() {
  const name = form.value("data.dataset");
  const told = name ? await datasetOf(name).catch(() => null) : null;
  if (form.value("data.dataset") !== name) return;
  strategy = told?.strategy ?? null;
  drawCards();
}

/** Whether a download broke off, or goes on: it is selected by its id, and the run fetches the rest. */
const isPart = ({ source, problems }) =>
  source === "cache" && problems.length > 0 && problems.every((problem) => PARTS.includes(problem.kind));
const PARTS = ["no-config", "no-weights", "missing-shard", "no-tokenizer"];

const isPickled = (model) => model.problems.some((problem) => problem.kind === "only-pickle");

const strategyNow = () => form.value("data.strategy") ?? strategy;

// -- small things ---------------------------------------------------------------------------------------------------

const usableFirst = (told) => [...told.filter((model) => model.usable), ...told.filter((model) => !model.usable)];

const names = (held) =>
  (Array.isArray(held) ? held : String(held ?? "").split(",")).map((name) => String(name).trim()).filter(Boolean);

/** The key that the server makes of a name. */
const normalized = (name) =>
  name
    .trim()
    .replace(/[/\\]+$/, "")
    .split(/[/\\]/)
    .pop()
    .normalize("NFKD")
    .replace(/[^\x00-\x7f]/g, "")
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-|-$/g, "");

/** Tokens as models are built for them: 131072 is 128 k. */
const binary = (tokens) => (tokens % 1024 || tokens < 1024 ? number(tokens) : `${number(tokens / 1024)} k`);

begin();
