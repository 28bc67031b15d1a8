// The Datasets page: what is stored, what each file is, and what can be done with it.
import { converted, leftOut } from "./conversion.js";
import { lengthsIn } from "./lengths.js";
import { BAD_ROWS, badRows, examples, problems } from "./rows.js";
import { uploads, wasStored } from "./upload.js";
import {
  $,
  _,
  _n,
  ask,
  badge,
  bytes,
  confirmed,
  copier,
  failed,
  failure,
  formatName,
  fully,
  get,
  h,
  icon,
  moment,
  number,
  part,
  post,
  put,
  tell,
  toast,
} from "./ui.js";

const COLUMNS = 7;
const COUNTED_AT_ONCE = 50e6; // bytes; rows of larger files are counted in tokens when somebody asks for it

const state = { datasets: [], damaged: [], models: [], uses: null, told: false, open: null, counting: null };
const body = $("#stored tbody");
const lines = new Map(); // of the table, by hash

uploads({ zone: $("#drop"), list: $("#drop-uploads"), names: () => names(), done: arrived });
$("#search").addEventListener("input", filter);
addEventListener("hashchange", () => open(named(), { scroll: true }));
begin();

async function begin() {
  if (!(await refresh())) return;
  if (named()) open(named(), { scroll: true });
  // What the table does without comes after it.
  const [runs, models] = await Promise.allSettled([get("/api/runs"), get("/api/models")]);
  state.told = true;
  state.uses = runs.value ? usesOf(runs.value.runs) : null;
  state.models = (models.value?.models ?? []).filter(({ usable, missing_bytes }) => usable && !missing_bytes);
  for (const dataset of state.datasets) put($(".uses", rowOf(dataset.sha256)), uses(dataset));
  if (state.open) count(state.open);
}

const names = () => new Set(state.datasets.map(({ name }) => name));

/** The dataset that the address names. */
function named() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return ""; // somebody wrote the address by hand
  }
}

/** Read what is stored, and draw it. Answers whether the server told. */
async function refresh() {
  try {
    Object.assign(state, await get("/api/datasets"));
  } catch (error) {
    put($("#trouble"), failure(error, begin));
    return false;
  }
  put($("#trouble"));
  draw();
  return true;
}

/** Which runs learned from each content: by hash their ids. */
function usesOf(runs) {
  const found = new Map();
  for (const { run_id: id, dataset } of runs) {
    if (dataset?.sha256) found.set(dataset.sha256, [...(found.get(dataset.sha256) ?? []), id]);
  }
  return found;
}

// -- the table -------------------------------------------------------------------------------------------------------

function draw() {
  const { datasets, damaged } = state;
  $("#tools").hidden = $("#stored").hidden = !datasets.length;
  $("#empty").hidden = datasets.length + damaged.length > 0;
  $("#damaged").hidden = !damaged.length;
  put($("#damaged ul"), damaged.map(broken));
  state.open = null;
  lines.clear();
  for (const dataset of datasets) lines.set(dataset.sha256, line(dataset));
  put(body, [...lines.values()]);
  filter();
}

function line(dataset) {
  const { name, sha256, container, format, rows, size_bytes: size, added_at: added } = dataset;
  const bad = badRows(dataset);
  const cell = (attributes, ...content) => h("td", { role: "cell", ...attributes }, content);
  return h(
    "tr",
    { role: "row", "data-sha256": sha256 },
    cell(
      { class: "c-name", role: "rowheader" },
      h(
        "button",
        {
          type: "button",
          "aria-expanded": "false",
          "aria-controls": `d-${sha256.slice(0, 12)}`,
          onclick: () => toggle(name),
        },
        icon("chev"),
        h("span", {}, name),
      ),
      h("code", { class: "muted" }, sha256.slice(0, 8)),
    ),
    cell(
      { class: "c-format" },
      badge("accent", "", formatName(format)),
      " ",
      h("small", { class: "muted" }, h("code", {}, format, " "), container.toUpperCase()),
    ),
    cell({ class: "num c-rows" }, number(rows), h("span", { class: "unit" }, " ", _("rows"))),
    cell({ class: "num c-size" }, bytes(size)),
    cell(
      { class: "c-bad" },
      bad ? badge("bad", "err", _n(bad, "{n} row", "{n} rows")) : h("span", { class: "muted" }, _("None")),
    ),
    cell({ class: "c-uses uses" }, uses(dataset)),
    cell({ class: "c-added muted nowrap" }, moment(added)),
  );
}

function uses({ name, sha256 }) {
  if (!state.uses) return null;
  const runs = state.uses.get(sha256) ?? [];
  if (!runs.length) return h("span", { class: "muted" }, _("No run"));
  if (runs.length === 1) return h("a", { href: `/runs/${encodeURIComponent(runs[0])}` }, _("1 run"));
  return h("a", { href: `/runs?q=${encodeURIComponent(name)}` }, _("{n} runs", { n: number(runs.length) }));
}

function filter() {
  const wanted = $("#search").value.trim().toLowerCase();
  let found = 0;
  for (const dataset of state.datasets) {
    const { name, sha256, format, container } = dataset;
    const row = rowOf(sha256);
    row.hidden = !`${name} ${format} ${formatName(format)} ${container} ${sha256}`.toLowerCase().includes(wanted);
    found += !row.hidden;
    if (row.hidden && state.open?.name === name) close();
  }
  const { length } = state.datasets;
  const size = bytes(state.datasets.reduce((sum, { size_bytes: each }) => sum + each, 0));
  put(
    $("#found"),
    wanted
      ? _("{n} of {all} datasets", { n: number(found), all: number(length) })
      : _n(length, "{n} dataset, {size}", "{n} datasets, {size}", { size }),
  );
}

const rowOf = (sha256) => lines.get(sha256);

/** An entry that cannot be used, with what is wrong. */
function broken({ sha256, problem, language }) {
  const ask = () => remove({ sha256, name: sha256.slice(0, 12) });
  return h(
    "li",
    { class: "finding" },
    icon("err", "bad"),
    h("p", { lang: language }, problem),
    h("button", { class: "btn danger small", type: "button", onclick: ask }, _("Delete…")),
    h("p", {}, _("Send its file again, or delete it.")),
  );
}

// -- one of them -----------------------------------------------------------------------------------------------------

function toggle(name) {
  const other = state.open?.name !== name;
  close();
  if (other) open(name);
  history.replaceState(null, "", other ? `#${encodeURIComponent(name)}` : location.pathname);
}

function close() {
  if (!state.open) return;
  const row = rowOf(state.open.sha256);
  $("button", row).setAttribute("aria-expanded", "false");
  row.nextElementSibling?.remove();
  state.open = null;
}

async function open(name, { scroll = false } = {}) {
  const dataset = state.datasets.find((each) => each.name === name);
  if (state.open?.name === name) return;
  close();
  if (!dataset) return;
  state.open = dataset;
  const row = rowOf(dataset.sha256);
  row.hidden = false;
  $("button", row).setAttribute("aria-expanded", "true");
  const panel = h("div", { class: "dataset", "aria-busy": "true" }, panelHead(dataset));
  const inside = h("td", { colspan: COLUMNS, role: "cell" }, panel);
  row.after(h("tr", { class: "opened", role: "row", id: `d-${dataset.sha256.slice(0, 12)}` }, inside));
  if (scroll) row.scrollIntoView({ block: "start" });
  await fill(dataset, panel);
  panel.removeAttribute("aria-busy");
}

/** What a panel says at once; the rest comes from the server. */
function panelHead(dataset) {
  const { name, sha256, added_at: added } = dataset;
  const button = (tone, content, onclick) =>
    h("button", { class: `btn small ${tone}`, type: "button", onclick }, content);
  return [
    h("h2", { class: "vh" }, name),
    h(
      "header",
      {},
      button("primary", [icon("play"), _("Train on it")], () => trainOn(name)),
      h(
        "a",
        { class: "btn small", href: `/api/datasets/${sha256}/content`, download: name },
        icon("down"),
        _("Download"),
      ),
      button("", _("Convert…"), () => convert(dataset)),
      h(
        "span",
        { class: "row" },
        button("quiet danger", _("Delete…"), () => remove(dataset)),
      ),
    ),
    h(
      "dl",
      { class: "pairs" },
      h("dt", {}, "SHA-256"),
      h("dd", { class: "hash" }, h("code", {}, sha256), copier(sha256, _("Copy the hash"))),
      h("dt", {}, _("Added")),
      h("dd", {}, fully(added)),
    ),
    h("div", { class: "panel-said", id: "panel-said" }),
  ];
}

async function fill(dataset, panel) {
  const numbers = h("div", { class: "facts-and-hist" });
  const rest = h("div", {});
  const bad = problems(dataset);
  panel.append(counter(dataset), numbers, ...(bad ? [bad] : []), rest);
  state.counting = lengthsIn(numbers, { hint: _("Choose a base model above to see lengths in tokens.") });
  count(dataset);
  try {
    const { rows } = await get(`/api/datasets/${dataset.sha256}/preview?rows=5`);
    const title = h(
      "h3",
      { class: "sub" },
      _("First rows"),
      " ",
      h("span", { class: "muted" }, _("as they stand in the file")),
    );
    put(rest, title, examples(rows, dataset));
  } catch (error) {
    const again = () => (close(), open(dataset.name));
    put(rest, failure(error, again));
  }
  const { findings } = await post("/api/validate?partial=true", { data: { dataset: dataset.sha256 } }).catch(() => ({
    findings: [],
  }));
  const told = findings.filter(({ field, rule }) => field === "data.dataset" && rule !== BAD_ROWS);
  if (state.open === dataset) put($("#panel-said"), told.map(finding));
}

const finding = ({ severity, problem, fix, language }) =>
  h(
    "div",
    { class: "finding" },
    icon(severity === "error" ? "err" : "warn", severity === "error" ? "bad" : "warn"),
    h("p", { lang: language }, problem),
    h("p", { lang: language }, fix),
  );

/** Which base model counts the tokens. */
function counter(dataset) {
  const select = h("select", { class: "input", id: "counted-by", onchange: () => count(dataset) });
  return h(
    "p",
    { class: "counter", hidden: true },
    h("label", { for: "counted-by" }, _("Tokens as counted by")),
    select,
  );
}

function count(dataset) {
  const select = $("#counted-by");
  if (!select || state.open !== dataset) return;
  if (!select.options.length && state.models.length) {
    put(
      select,
      h("option", { value: "" }, _("None: in characters")),
      state.models.map(({ key, display_name: name }) => h("option", { value: key }, name)),
    );
    const able = state.models.find((model) => model.has_chat_template) ?? state.models[0];
    select.value = dataset.size_bytes <= COUNTED_AT_ONCE ? able.key : "";
    select.parentNode.hidden = false;
  }
  const model = state.models.find(({ key }) => key === select.value);
  const counting = model && { key: model.key, name: model.display_name, context: model.context_length };
  if (model || state.told) state.counting.ask(dataset, counting ? [counting] : [], null);
}

// -- what can be done with it ----------------------------------------------------------------------------------------

/** Go to the form with this dataset, and the rest of its draft. */
async function trainOn(name) {
  const form = await part(import("./form.js"));
  if (!form) return;
  form.set({ "data.dataset": name, "data.bad_rows": undefined });
  location.assign("/train#data");
}

async function convert(dataset) {
  try {
    const known = await get(`/api/datasets/${dataset.sha256}`);
    const added = await converted(known, names(), { late: refresh });
    if (added) arrived(added, { notice: leftOut(added) });
  } catch (error) {
    failed(error);
  }
}

async function arrived(added, { isNew = true, name = added.name, notice = "" } = {}) {
  const known = names().has(added.name);
  if (!(await refresh())) return;
  $("#search").value = "";
  filter();
  open(added.name, { scroll: true });
  history.replaceState(null, "", `#${encodeURIComponent(added.name)}`);
  const said = isNew && !known ? notice : wasStored(added, name);
  if (said) put($("#trouble"), h("p", { class: "msg", role: "status" }, icon("info"), h("span", {}, said)));
  else toast(_("{name} is stored.", { name: added.name }));
}

async function remove({ sha256, name }) {
  const said = await confirmed({
    title: _("Delete {name}?", { name }),
    text: _("Its file is removed from this server. Runs that learned from it stay as they are."),
    choices: [{ value: "delete", label: _("Delete") }],
  });
  if (said !== "delete") return;
  try {
    await ask("DELETE", `/api/datasets/${sha256}`).catch((error) => {
      if (error.status !== 404) throw error; // somebody else was faster
    });
    history.replaceState(null, "", location.pathname);
    if (!(await refresh())) return;
    tell(_("{name} is deleted.", { name }));
    $("#drop input").focus();
  } catch (error) {
    put($("#panel-said") ?? $("#trouble"), failure(error));
  }
}
