// The base models: what is here, what each can do, and how more of them come.
import { abilities } from "./abilities.js";
import { has, notes, partly, pickled, standing, template } from "./condition.js";
import { convert, download, row, running } from "./downloads.js";
import { lookUp } from "./hub.js";
import { $, $$, _, _n, bytes, count, encoded, failure, get, h, icon, machine, number, part, put, toast } from "./ui.js";

const COLUMNS = 6;

const state = { models: [], open: new Set(), asked: 0 };

listen();
begin();

async function begin() {
  if (!(await list(begin))) return;
  const busy = await running().catch(() => []);
  busy.forEach(work);
  const { disk_free_bytes: free } = await machine().catch(() => ({}));
  if (free != null) $("#disk").textContent = `${_("{size} free on this disk.", { size: bytes(free) })} `;
}

// -- the list -------------------------------------------------------------------------------------------------------

/** Read what is here anew, and draw it; what was open stays open. Answers whether the server told; else `again` is
 * offered. */
async function list(again = list) {
  const mine = (state.asked += 1);
  try {
    const told = await get("/api/models");
    if (mine === state.asked) state.models = told.models; // else a later answer has come or will
  } catch (error) {
    put($("#problem"), failure(error, again));
    return false;
  }
  put($("#problem"));
  $("#here").hidden = !state.models.length;
  $("#empty").hidden = state.models.length > 0;
  for (const [which, like] of Object.entries(SIFTS)) {
    $(`[data-count="${which}"]`).textContent = number(state.models.filter(like).length);
  }
  draw();
  return true;
}

const SIFTS = { all: () => true, ready: (model) => model.usable, wanting: (model) => !model.usable };

function draw() {
  const reached = document.activeElement.closest("[data-model]")?.dataset.model;
  put($("#models"), state.models.length > 0 && table(state.models));
  sift();
  if (reached) $(`[data-model="${CSS.escape(reached)}"] .opener`)?.focus();
}

/** Hide what is not looked for. */
function sift() {
  const words = $("#search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const like = SIFTS[$("[name=sift]:checked").value];
  const text = (model) =>
    [model.key, model.display_name, model.model_type, model.architecture, model.hub_id, model.licence]
      .join(" ")
      .toLowerCase();
  const entries = $$("#models [data-model]"); // an open one has a table of its own
  for (const [place, model] of state.models.entries()) {
    entries[place].hidden = !like(model) || !words.every((word) => text(model).includes(word));
  }
  const none = entries.every((each) => each.hidden);
  $("#models").hidden = none;
  $("#nothing").hidden = !none;
}

function table(models) {
  const head = [_("Model"), _("Parameters"), _("Size"), _("Context"), _("State"), ""];
  return h(
    "table",
    { class: "table roster cards indented", role: "table", "aria-label": _("Base models here") },
    h(
      "thead",
      { role: "rowgroup" },
      h(
        "tr",
        { role: "row" },
        head.map((name, place) =>
          h(
            "th",
            { role: "columnheader", scope: "col", class: place > 0 && place < 4 && "num" },
            name || h("span", { class: "vh" }, _("Actions")),
          ),
        ),
      ),
    ),
    models.map(entry),
  );
}

function entry(model, place) {
  const id = `model-${place}`;
  const details = h("td", { role: "cell", colspan: COLUMNS, id: `${id}-details` });
  const more = h("tr", { role: "row", class: "more", hidden: true }, details);
  const opener = h(
    "button",
    { class: "opener", type: "button", "aria-expanded": "false", "aria-controls": `${id}-details`, onclick: toggle },
    icon("chev"),
    h("span", { class: "name" }, model.display_name),
  );
  if (state.open.has(model.path)) toggle();
  const figure = (label, text) => h("td", { role: "cell", class: "num", "data-label": label }, text);
  return h(
    "tbody",
    { role: "rowgroup", "data-model": model.key },
    h(
      "tr",
      { role: "row", class: "main" },
      h(
        "th",
        { role: "rowheader", scope: "row" },
        opener,
        h(
          "span",
          { class: "facts" },
          h("code", {}, model.key),
          [model.path !== model.key && has(model, ["collision"]) && model.path, model.architecture, model.licence]
            .filter(Boolean)
            .map((text) => ` · ${text}`),
        ),
      ),
      figure(_("Parameters"), count(model.parameters || null)),
      figure(_("Size"), bytes(model.size_bytes)),
      figure(_("Context"), number(model.context_length)),
      h("td", { role: "cell", class: "states" }, states(model)),
      h("td", { role: "cell", class: "num action" }, action(model)),
    ),
    (model.problems.length > 0 || model.shadows.length > 0) &&
      h("tr", { role: "row", class: "notes" }, h("td", { role: "cell", colspan: COLUMNS }, notes(model))),
    more,
  );

  function toggle() {
    const open = more.hidden;
    more.hidden = !open;
    opener.setAttribute("aria-expanded", open);
    state.open[open ? "add" : "delete"](model.path);
    if (open && !details.hasChildNodes()) fill(details, model);
  }
}

function states(model) {
  return h("div", { class: "row" }, standing(model), model.usable && template(model));
}

function action(model) {
  const name = model.display_name;
  if (model.usable) return button("play", _("Train it"), _("Train it: {name}", { name }), () => train(model));
  if (partly(model)) {
    const label = _("Resume download: {name}", { name });
    return button("down", _("Resume download"), label, () => start(() => download(model.key)));
  }
  if (pickled(model)) {
    return button("shift", _("Convert"), _("Convert {name} to safetensors", { name }), () =>
      start(() => convert(model.key)),
    );
  }
  return null;
}

const button = (drawing, text, label, onclick) =>
  h("button", { class: "btn small", type: "button", "aria-label": label, onclick }, icon(drawing), text);

// -- what one can do ------------------------------------------------------------------------------------------------

async function fill(place, model) {
  place.setAttribute("aria-busy", "true");
  put(place, h("p", { class: "muted" }, _("Reading what it can do …")));
  try {
    put(place, abilities(await get(`/api/models/${encoded(model.key)}`)));
  } catch (error) {
    put(
      place,
      failure(error, () => fill(place, model)),
    );
  }
  place.removeAttribute("aria-busy");
}

// -- more of them ---------------------------------------------------------------------------------------------------

/** Begin a task, and show it at the top. */
async function start(begin) {
  const task = await started(begin);
  if (!task) return;
  work(task);
  $("#working").scrollIntoView({ block: "center" });
}

/** The task that began; nothing where it could not, which is said. */
async function started(begin) {
  put($("#problem"));
  try {
    return await begin();
  } catch (error) {
    put($("#problem"), failure(error));
    $("#problem").scrollIntoView({ block: "center" });
    return null;
  }
}

function work(task) {
  if ($(`[data-task="${task.id}"]`)) return;
  const element = row(task, { onEnd: ended });
  $("#tasks").prepend(element);
  $("#working").hidden = false;

  function ended() {
    const away = h(
      "button",
      { class: "btn quiet small icon", type: "button", "aria-label": _("Dismiss"), onclick: clear },
      icon("x"),
    );
    $(".task-foot", element).append(away);
    list();
  }

  function clear() {
    element.remove();
    $("#working").hidden = !$("#tasks").hasChildNodes();
    $("h1").tabIndex = -1;
    $("h1").focus();
  }
}

/** Select a model for the next run, and go there. */
async function train(model, name = model.key) {
  const form = await part(import("./form.js"));
  if (!form) return;
  const chosen = [form.value("model.base_models") ?? []].flat();
  if (!chosen.includes(name)) form.set({ "model.base_models": [...chosen, name] });
  location.assign("/train");
}

function listen() {
  $("#search").addEventListener("input", sift);
  $("#sift").addEventListener("change", sift);
  $("#show-all").addEventListener("click", () => {
    $("#search").value = "";
    $("[name=sift][value=all]").checked = true;
    sift();
    $("#search").focus();
  });
  $("#add").addEventListener("click", () => $("#wanted").focus());
  $("#look").addEventListener("click", async () => {
    const before = state.models.length;
    if (!(await list())) return;
    const more = state.models.length - before;
    toast(
      more > 0 ? _n(more, "{n} more base model is here.", "{n} more base models are here.") : _("Nothing new is here."),
    );
  });
  $("#try").addEventListener("click", (event) => {
    $("#wanted").value = event.target.textContent;
    lookUp($("#wanted").value, { started, train, list });
  });
  $("#pull").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = $("#wanted").value.trim();
    if (name) lookUp(name, { started, train, list });
    else $("#wanted").focus();
  });
}
