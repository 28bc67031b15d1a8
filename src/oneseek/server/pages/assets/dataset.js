// The dataset of the Train page: which one, what it is, how long its rows are, what is wrong with it.
import { converted, leftOut } from "./conversion.js";
import { findings, failure as unjudged, on, pristine, set, value } from "./form.js";
import { lengthsIn } from "./lengths.js";
import { BAD_ROWS, badRows, examples, problems } from "./rows.js";
import { message, written } from "./settings.js";
import { called, chosen as selection, datasetOf, modelOf } from "./train.js";
import { uploads, wasStored } from "./upload.js";
import {
  $,
  _,
  Failure,
  badge,
  bytes,
  failed,
  failure,
  formatName,
  get,
  h,
  icon,
  number,
  passing,
  put,
  redraw,
  tell,
} from "./ui.js";

const NONE_GIVEN = "dataset-given";
const FITS = ["dataset-fits-strategy", "dataset-fits-method"]; // other sections have the setting, the dataset the cause
const EXAMPLES = 5;

// listed: whether the server has told what is stored; away: whether it could not tell of the chosen one
const state = { stored: [], listed: false, shown: null, asking: null, away: false, notice: "" };
const parts = {};

/** Take over the section, once. `datasets` is the list of GET /api/datasets, null where it did not come. */
export function begin(datasets) {
  Object.assign(state, { stored: datasets ?? [], listed: datasets !== null });
  uploads({ zone: $("#data-drop"), list: $("#data-drop-uploads"), names, done: arrived });
  $("#data-dataset").addEventListener("change", (event) => choose(event.target.value));
  on("change", (fields) => {
    if (fields.includes("data.dataset")) show();
    if (fields.includes("data.bad_rows")) judged();
    if (fields.includes("model.base_models") || fields.includes("data.max_length")) count();
  });
  on("verdict", () => {
    if (!unjudged() && (state.away || !state.listed)) show(); // it answers again
    judged();
  });
  show();
}

const names = () => new Set(state.stored.map(({ name }) => name));

/** Choose a dataset by its name, "" for none. What was decided about the rows of another one is not carried over. */
const choose = (name) => set({ "data.dataset": name || undefined, "data.bad_rows": undefined });

/** A dataset that was just sent or converted is the one to be used. */
function arrived(added, { isNew = true, name = added.name, notice = "" } = {}) {
  if (!names().has(added.name)) state.stored = [...state.stored, added].sort(byName);
  state.notice = isNew ? notice : wasStored(added, name);
  if (value("data.dataset") === added.name) show();
  else choose(added.name);
  $("#data-title").scrollIntoView({ block: "nearest" });
}

const byName = (one, other) => (one.name < other.name ? -1 : 1);

// -- the chosen one --------------------------------------------------------------------------------------------------

async function show() {
  const chosen = named();
  const place = $("#data-shown");
  options(chosen);
  state.asking?.abort();
  const mine = (state.asking = new AbortController());
  state.away = false;
  if (!chosen) {
    if (!state.listed) relist().catch(() => {}); // with the next verdict again
    state.shown = null;
    judged();
    place.removeAttribute("aria-busy");
    return put(place);
  }
  const address = `/api/datasets/${encodeURIComponent(chosen)}`;
  place.setAttribute("aria-busy", "true");
  try {
    if (!meant(chosen) || !state.listed) await relist(mine.signal); // another tab may have sent it
    if (!meant(chosen)) throw new Failure(404, gone(chosen));
    const [dataset, preview] = await Promise.all([
      datasetOf(chosen),
      get(`${address}/preview?rows=${EXAMPLES}`, { signal: mine.signal }),
    ]);
    if (state.asking !== mine) return;
    state.shown = dataset;
    put(place, drawn(dataset, preview.rows));
    count();
    const said = { name: dataset.name, format: formatName(dataset.format), n: number(dataset.rows) };
    tell(_("{name}: {format}, {n} rows", said));
  } catch (error) {
    if (state.asking !== mine || error.name === "AbortError") return;
    state.shown = null;
    state.away = passing(error);
    put(place, unreadable(error));
  }
  place.removeAttribute("aria-busy");
  judged();
}

async function relist(signal) {
  state.stored = (await get("/api/datasets", { signal })).datasets;
  state.listed = true;
  options(named());
}

/** The list of what is stored, and of what is asked for where that is not there. */
function options(chosen = "") {
  const select = $("#data-dataset");
  const known = state.stored.map(({ name, rows, format }) =>
    h(
      "option",
      { value: name },
      _("{name} · {rows} rows, {format}", { name, rows: number(rows), format: formatName(format) }),
    ),
  );
  const found = meant(chosen);
  const missing = chosen && !found && h("option", { value: chosen }, _("{name} (not stored here)", { name: chosen }));
  put(select, h("option", { value: "" }, _("Choose a dataset")), missing, known);
  select.value = found?.name ?? chosen;
}

/** The name that is asked for, "" for none; whatever else a file may say there as it stands. */
const named = () => written(value("data.dataset") ?? "");

/** The stored dataset that a name or the first digits of a hash mean. */
const meant = (given) =>
  state.stored.find(({ name }) => name === given) ??
  state.stored.find(({ sha256 }) => given.length >= 8 && sha256.startsWith(given.toLowerCase()));

function unreadable(error) {
  const box = failure(error);
  const none = h(
    "button",
    { class: "btn small", type: "button", onclick: () => choose("") },
    _("Remove from this form"),
  );
  const again = h("button", { class: "btn small", type: "button", onclick: show }, _("Try again"));
  box.append(h("span", { class: "row" }, error.status === 404 ? none : again));
  return box;
}

const gone = (name) => ({
  message: _("{name} is not stored here.", { name }),
  fix: _("Choose another dataset, or drop the file above."),
});

function drawn(dataset, rows) {
  parts.numbers = h("div", { class: "facts-and-hist" });
  parts.said = h("div", { class: "dataset-said" });
  parts.problems = h("div", {});
  parts.lengths = lengthsIn(parts.numbers, { hint: _("Choose a base model to see lengths in tokens.") });
  return h(
    "div",
    { class: "dataset" },
    header(dataset),
    state.notice && h("p", { class: "msg", role: "status" }, icon("info"), h("span", {}, takeNotice())),
    parts.numbers,
    parts.said,
    parts.problems,
    h("h3", { class: "sub" }, _("First examples"), " ", h("span", { class: "muted" }, legend(dataset.used_as))),
    examples(rows, dataset),
  );
}

function takeNotice() {
  const { notice } = state;
  state.notice = "";
  return notice;
}

const legend = (usedAs) =>
  usedAs.startsWith("preference")
    ? _("the solid bar marks what is preferred, the dotted one what is not")
    : _("what the bar marks is what is learned");

function header(dataset) {
  const button = (attributes, ...content) => h("button", { type: "button", ...attributes }, content);
  return h(
    "header",
    {},
    icon("file"),
    h("h3", {}, dataset.name),
    badge("accent", "check", formatName(dataset.format)),
    h("code", { class: "muted" }, dataset.format),
    h("span", { class: "muted nowrap" }, bytes(dataset.size_bytes), " · ", h("code", {}, dataset.sha256.slice(0, 8))),
    h(
      "span",
      { class: "row" },
      h(
        "a",
        { class: "btn small", href: `/api/datasets/${dataset.sha256}/content`, download: dataset.name },
        icon("down"),
        _("Download"),
      ),
      button({ class: "btn small", onclick: () => convert() }, _("Convert…")),
      button({ class: "btn quiet small", onclick: () => choose("") }, _("Don’t use it")),
    ),
  );
}

/** Ask for another format of it, one that `suits` a strategy or a method where those are given. */
export async function convert(suits) {
  const added = state.shown && (await converted(state.shown, names(), { suits, late }));
  const said = () => _("Converted: {format}.", { format: formatName(added.format) });
  if (added) arrived(added, { notice: [said(), leftOut(added)].join(" ") });
}

const late = () => relist().catch(failed);

/** Count tokens for the models and the limit of now. */
function count() {
  if (!state.shown) return;
  const limit = value("data.max_length");
  const selected = selection().map((key, place) => ({ model: modelOf(key), place }));
  // A model that is not here (yet) has no tokens to count by.
  const models = selected
    .filter(({ model }) => model?.usable && model.source !== "hub" && !model.missing_bytes)
    .map(({ model, place }) => ({
      key: model.key,
      name: called(model.key, model),
      place,
      context: model.context_length,
    }));
  parts.lengths.ask(state.shown, models, Number.isInteger(limit) && limit >= 8 ? limit : null);
}

// -- what the server says of it --------------------------------------------------------------------------------------

function judged() {
  const dataset = state.shown;
  if (dataset && badRows(dataset)) drawProblems(dataset);
  const told = [...findings("data.dataset"), ...findings("data.bad_rows"), ...misfits()];
  const place = dataset ? parts.said : $("#data-said");
  // What stands below in other words is not said twice: the bad rows, and that there is no such dataset.
  const below = dataset ? ({ rule }) => rule === BAD_ROWS : () => Boolean(value("data.dataset"));
  const listed = told.filter((finding) => finding.field !== "data.dataset" || !below(finding));
  if (dataset) redraw($("#data-said"), [], () => []);
  redraw(place, [listed, pristine()], () => listed.map((finding) => message(spoken(finding))));
}

function drawProblems(dataset) {
  const aside = value("data.bad_rows") === "quarantine";
  const switched = document.activeElement?.id === "set-aside";
  redraw(parts.problems, [dataset.sha256, aside], () => problems(dataset, { aside, setAside }));
  if (switched) $("#set-aside").focus();
}

const setAside = (yes) => set({ "data.bad_rows": yes ? "quarantine" : undefined });

/** Nobody names a file on a command line here. */
const spoken = (finding) =>
  finding.rule === NONE_GIVEN ? { ...finding, fix: _("Choose a stored one, or drop a file.") } : finding;

const misfits = () =>
  [...findings("data.strategy"), ...findings("training.method")].filter(({ rule }) => FITS.includes(rule));
