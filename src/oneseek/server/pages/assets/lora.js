// Which modules get an adapter: chips for those that the selected models have, and a table of how much of each model
// they reach, as the server tells it.
import * as form from "./form.js";
import { effective, message } from "./settings.js";
import { called, chosen, keyOf, modelOf } from "./train.js";
import { $, $$, _, _n, count, encoded, get, h, icon, mark, number, put, redraw, svg } from "./ui.js";

const FIELD = "lora.target_modules";
const PAUSE = 150; // milliseconds without another change before the server is asked
const WORDS = ["auto", "all-linear"];

const chips = $("#targets-chips");
const field = $("#target-name");
const table = $("#coverage");
const known = new Map(); // model and what was asked for -> coverage, or the error; null while it is asked
let timer = 0;

/** Draw targets and coverage, and keep them drawn. */
export function begin() {
  form.on("change", (fields) => fields.some(matters) && draw());
  form.on("verdict", () => {
    say();
    if (!form.failure() && [...latest.values()].some(({ error }) => error?.away)) askAll(); // it answers again
  });
  for (const button of $$("[data-targets]")) {
    button.addEventListener("click", () => form.set({ [FIELD]: button.dataset.targets }));
  }
  $("#target-add").addEventListener("click", add);
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    add();
  });
  draw();
  say();
}

const matters = (name) => name === "model.base_models" || name.startsWith("lora.") || name.startsWith("per_model.");

function draw() {
  clearTimeout(timer);
  timer = setTimeout(askAll, PAUSE);
  drawTargets();
  drawTable();
}

// -- what is asked for ----------------------------------------------------------------------------------------------

/** "auto", "all-linear" or names, for all models or for one that has its own. */
const asked = () => plain(form.value(FIELD));
const askedOf = (name) => plain(form.value(`per_model.${keyOf(name)}.${FIELD}`) ?? form.value(FIELD));

function plain(held) {
  if (held == null || held === "") return "auto";
  const names = (Array.isArray(held) ? held : String(held).split(",")).map((each) => String(each).trim());
  return names.length === 1 && WORDS.includes(names[0]) ? names[0] : names.filter(Boolean);
}

/** The modules that a request means in a model, as far as the list of models tells it. */
function meant(model, wanted) {
  if (wanted === "auto") return model.lora_targets;
  if (wanted === "all-linear") return modules(model).filter((name) => !(name in model.left_out));
  return wanted;
}

const modules = (model) => model.linear_modules.map((module) => module.name);
const selected = () => chosen().map(modelOf).filter(Boolean);
const union = (lists) => [...new Set(lists.flat())];

function toggle(name, on) {
  const now = union(selected().map((model) => meant(model, asked())));
  const names = on ? [...now, name] : now.filter((each) => each !== name);
  form.set({ [FIELD]: names.length ? union([names]) : null });
}

function add() {
  const names = field.value.split(/[\s,]+/).filter(Boolean);
  if (!names.length) return field.focus();
  field.value = "";
  const now = union(selected().map((model) => meant(model, asked())));
  form.set({ [FIELD]: union([now, names]) });
}

// -- chips ----------------------------------------------------------------------------------------------------------

function drawTargets() {
  const locked = !chosen().length;
  for (const control of $$("#targets button:not(.help), #target-name")) {
    if (chips.contains(control)) continue;
    control.ariaDisabled = locked ? "true" : null;
    if (locked) control.setAttribute("aria-describedby", "targets-why");
    else control.removeAttribute("aria-describedby");
  }
  field.readOnly = locked;
  $("#targets-why").hidden = !locked;
  chips.hidden = locked;
  table.hidden = locked;
  for (const button of $$("[data-targets]")) {
    button.ariaPressed = String(!locked && asked() === button.dataset.targets);
  }
  put($("#targets-state"), locked ? "" : state());
  const models = selected();
  const forbidden = (name) => models.every((model) => !modules(model).includes(name) || name in model.forbidden);
  const on = union(models.map((model) => meant(model, asked())));
  const names = union([...models.map(modules), on]).filter((name) => on.includes(name) || !forbidden(name));
  redraw(chips, names, () => names.map(chip));
  for (const input of $$("input", chips)) {
    const lacking = models.filter((model) => model.linear_modules.length && !has(model, input.value));
    input.checked = on.includes(input.value);
    input.parentElement.classList.toggle("warned", Array.isArray(asked()) && lacking.length > 0);
  }
}

function state() {
  if (asked() === "auto") return _("Filled in: each model gets what suits its family.");
  if (asked() === "all-linear") return _("Every linear module, without the head and routers.");
  return _n(
    asked().length,
    "Chosen by name: {n} module, the same for every model.",
    "Chosen by name: {n} modules, the same for every model.",
  );
}

const chip = (name) =>
  h(
    "label",
    { class: "chip mono" },
    h("input", { type: "checkbox", value: name, onchange: (event) => toggle(name, event.target.checked) }),
    icon("check"),
    name,
  );

/** Whether a name, or the end of a path, can be a module of a model; the server decides. */
const has = (model, name) => modules(model).includes(name.split(".").at(-1));

// -- coverage -------------------------------------------------------------------------------------------------------

async function askAll() {
  await Promise.all(selected().map(askOne));
}

async function askOne(model) {
  const address = question(model);
  const id = identity(model);
  if (known.has(id)) return;
  known.set(id, null);
  try {
    const told = await get(address);
    known.set(id, told.coverage);
    latest.set(model.key, told.coverage);
  } catch (error) {
    known.delete(id);
    const { message: text, fix, status } = error;
    latest.set(model.key, { ...latest.get(model.key), error: { text, fix, away: status === 0 } });
  }
  drawTable();
}

const latest = new Map(); // key -> the coverage that was told last, shown while the next is asked

const coverageOf = (model) => known.get(identity(model)) ?? latest.get(model.key);

/** What is asked of a model as it is now: a conversion or a download makes it another. */
const identity = (model) => `${question(model)} ${model.size_bytes}`;

function question(model) {
  const name = model.source === "hub" ? model.hub_id : model.key;
  const wanted = [askedOf(model.key)].flat().join(",");
  return `/api/models/${encoded(name)}?targetModules=${encodeURIComponent(wanted)}`;
}

function drawTable() {
  const rows = selected().map((model, place) => ({
    place,
    name: called(model.key, model),
    shapes: model.linear_modules,
    wanted: meant(model, askedOf(model.key)),
    rank: form.value(`per_model.${model.key}.lora.r`) ?? effective("lora.r"),
    told: coverageOf(model),
  }));
  const columns = union(rows.map((row) => row.wanted));
  const answers = selected().map((model) => known.get(identity(model)));
  table.ariaBusy = String(answers.includes(null));
  table.toggleAttribute("data-old", !answers.every(Boolean));
  redraw(table, [columns, rows], () => [matrix(columns, rows), legend(), refusals(rows)]);
}

function matrix(columns, rows) {
  const heads = columns.map((name) => h("th", { scope: "col" }, name));
  return h(
    "table",
    { class: "matrix" },
    h("caption", { class: "vh" }, _("In how many layers of each model a target module is trained")),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("th", { scope: "col" }, h("span", { class: "vh" }, _("Model"))),
        heads,
        h("th", { scope: "col", class: "last" }, _("trainable")),
      ),
    ),
    h(
      "tbody",
      {},
      rows.map((row) => rowOf(row, columns)),
    ),
  );
}

const rowOf = (row, columns) =>
  h(
    "tr",
    {},
    h("th", { scope: "row" }, h("span", {}, mark(row.place), row.name)),
    columns.map((name) => h("td", {}, cell(row, name))),
    h("td", { class: "last" }, row.told?.modules ? count(trainable(row)) : row.told ? "–" : "…"),
  );

function cell({ told }, name) {
  if (!told?.modules) return told ? "–" : "…";
  const last = name.split(".").at(-1);
  const found =
    told.modules.find((module) => module.name === name) ?? told.modules.find((module) => module.name === last);
  const asks = found && told.targets.includes(name);
  if (found?.status === "matched" && asks) return dot("full", number(found.layers), _("every layer"));
  if (found?.status === "partial" && asks) return dot("part", share(found), _("some layers"));
  if (found?.status === "forbidden" && asks) return dot("no", "–", _("no adapter can be put on it"));
  return dot("no", "–", _("none"));
}

const share = ({ trained, layers, trained_places: done, places }) =>
  trained.length < layers ? `${number(trained.length)}/${number(layers)}` : `${number(done)}/${number(places)}`;

const SHAPES = {
  full: () => svg("circle", { class: "full", cx: 6, cy: 6, r: 5 }),
  part: () => [
    svg("circle", { class: "o", cx: 6, cy: 6, r: 4.5 }),
    svg("path", { class: "part", d: "M6 1.5a4.5 4.5 0 0 1 0 9Z" }),
  ],
  no: () => svg("circle", { class: "no", cx: 6, cy: 6, r: 4.5 }),
};

const drawing = (kind) => svg("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" }, SHAPES[kind]());

const dot = (kind, text, said) =>
  h(
    "span",
    { class: kind === "part" ? "cov p" : "cov" },
    drawing(kind),
    h("span", {}, text),
    h("span", { class: "vh" }, said),
  );

const legend = () =>
  h(
    "p",
    { class: "cov-legend", "aria-hidden": "true" },
    [
      ["full", _("every layer")],
      ["part", _("some layers")],
      ["no", _("none")],
    ].map(([kind, text]) => h("span", { class: "cov" }, drawing(kind), text)),
  );

const refusals = (rows) =>
  rows
    .filter(({ told }) => told?.error)
    .map(({ name, told: { error } }) =>
      h("p", { class: "msg" }, icon("err", "bad"), h("span", {}, h("b", {}, name), `: ${error.text} ${error.fix}`)),
    );

/** Parameters of the adapter: two matrices of `rank` columns and rows for each module that is trained. */
function trainable({ told, shapes, rank }) {
  const trained = told.modules.filter((module) => module.trained_places);
  return trained.reduce((sum, { name, places, trained_places: done }) => {
    const all = shapes.filter((shape) => shape.name === name);
    const whole = all.reduce((total, shape) => total + (shape.in + shape.out) * shape.places, 0);
    return sum + (rank * whole * done) / places;
  }, 0);
}

// -- what the server says of it -------------------------------------------------------------------------------------

function say() {
  const own = chosen().flatMap((name) => form.findings(`per_model.${keyOf(name)}.${FIELD}`));
  const said = [...form.findings(FIELD), ...own];
  redraw($("#targets-said"), said, () => said.map(message));
}
