// The base models: what is here, what each can do, and how more of them come.
import {
  $,
  $$,
  _,
  _n,
  badge,
  bytes,
  count,
  failed,
  failure,
  get,
  h,
  icon,
  machine,
  number,
  put,
  tell,
  toast,
} from "./ui.js";
import { convert, download, row, running } from "./downloads.js";

const RANK = 16; // of the example of how many parameters an adapter has
const LACKING = ["no-config", "no-weights", "missing-shard", "no-tokenizer"]; // what a download adds
const COLUMNS = 6;
const ADDRESS = /(https?:\/\/[^\s,;)]+[^\s,;).])/;

const state = { models: [], open: new Set(), shown: [] };

begin();

async function begin() {
  listen();
  await list();
  const busy = await running().catch(() => []);
  busy.forEach(work);
  const { disk_free_bytes: free } = await machine().catch(() => ({}));
  if (free != null) $("#disk").textContent = `${_("{size} free on this disk.", { size: bytes(free) })} `;
}

// -- the list -------------------------------------------------------------------------------------------------------

/** Read what is here anew, and draw it; what was open stays open. */
async function list() {
  try {
    state.models = (await get("/api/models")).models;
  } catch (error) {
    return put($("#problem"), failure(error));
  }
  put($("#problem"));
  $("#here").hidden = !state.models.length;
  $("#empty").hidden = state.models.length > 0;
  for (const [which, like] of Object.entries(SIFTS)) {
    $(`[data-count="${which}"]`).textContent = number(state.models.filter(like).length);
  }
  draw();
}

const SIFTS = { all: () => true, ready: (model) => model.usable, wanting: (model) => !model.usable };

function draw() {
  const words = $("#search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const like = SIFTS[$("[name=sift]:checked").value];
  const text = (model) =>
    [model.key, model.display_name, model.model_type, model.architecture, model.hub_id, model.licence]
      .join(" ")
      .toLowerCase();
  state.shown = state.models.filter((model) => like(model) && words.every((word) => text(model).includes(word)));
  put($("#models"), state.shown.length > 0 && table(state.shown));
  $("#nothing").hidden = state.shown.length > 0;
}

function table(models) {
  const head = [_("Model"), _("Parameters"), _("Size"), _("Context"), _("State"), ""];
  return h(
    "table",
    { class: "table roster", role: "table", "aria-label": _("Base models here") },
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

function standing(model) {
  if (partly(model)) {
    const missing = model.missing_bytes;
    return badge("warn", "down", missing ? _("{size} missing", { size: bytes(missing) }) : _("Partly here"));
  }
  if (pickled(model)) return badge("warn", "warn", _("Pickle only"));
  if (!model.usable) return badge("bad", "err", _("Can’t be used"));
  if (model.source === "hub") return badge("", "down", _("{size} to download", { size: bytes(model.missing_bytes) }));
  return badge("good", "check", model.source === "cache" ? _("Cached") : _("In the models folder"));
}

const template = (model) =>
  model.has_chat_template ? badge("", "chat", _("Chat")) : badge("", "ban", _("No chat template"));

const has = (model, kinds) => model.problems.some((problem) => kinds.includes(problem.kind));
const partly = (model) => model.source === "cache" && (model.missing_bytes > 0 || has(model, LACKING));
const pickled = (model) => model.source !== "hub" && has(model, ["only-pickle"]);

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

function notes(model) {
  return h(
    "ul",
    {},
    model.problems.map((problem) =>
      h(
        "li",
        {},
        icon("err", "bad"),
        h("p", { lang: problem.language }, problem.problem, " ", h("span", { class: "muted" }, linked(problem.fix))),
      ),
    ),
    model.shadows.map((path) =>
      h(
        "li",
        {},
        icon("info"),
        h(
          "p",
          { class: "muted" },
          _("A copy in the cache is passed over, since this one has its name: {path}", { path }),
        ),
      ),
    ),
  );
}

// -- what one can do ------------------------------------------------------------------------------------------------

async function fill(place, model) {
  place.setAttribute("aria-busy", "true");
  put(place, h("p", { class: "muted" }, _("Reading what it can do …")));
  try {
    put(place, abilities(await get(`/api/models/${path(model.key)}`)));
  } catch (error) {
    put(place, failure(error));
  }
  place.removeAttribute("aria-busy");
}

const path = (name) => name.split("/").map(encodeURIComponent).join("/");

function abilities(model) {
  return h("div", { class: "abilities" }, files(model), chat(model), lora(model));
}

function files(model) {
  const facts = [
    [_("Folder"), model.source === "hub" ? null : h("code", {}, model.path)],
    [_("On the hub"), model.hub_id && h("code", {}, model.hub_id)],
    [_("Revision"), model.revision && h("code", {}, model.revision.slice(0, 12))],
    [_("Family"), model.model_type && h("code", {}, model.model_type)],
    [_("Architecture"), model.architecture && h("code", {}, model.architecture)],
    [_("Parameters"), model.parameters ? number(model.parameters) : null],
    [_("Weights"), bytes(model.size_bytes)],
    [_("Context"), model.context_length && _n(model.context_length, "{n} token", "{n} tokens")],
    [_("Licence"), model.licence ?? _("Its files declare none")],
  ];
  return h(
    "section",
    {},
    h("h3", {}, _("Files")),
    h(
      "dl",
      { class: "pairs" },
      facts.filter(([, value]) => value).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
    ),
  );
}

function chat(model) {
  return h(
    "section",
    {},
    h("h3", {}, _("Chat template")),
    h(
      "ul",
      { class: "traits" },
      traits(model).map(([tone, text, why]) =>
        h(
          "li",
          {},
          icon({ good: "check", bad: "err", warn: "warn" }[tone] ?? "eq", tone),
          h("span", {}, text, why && h("span", { class: "muted" }, " ", _("It says: “{words}”", { words: why }))),
        ),
      ),
    ),
  );
}

/** What a template does, each as tone, sentence, and its own words where it refused. */
function traits({ has_chat_template: there, template: found }) {
  if (!there || !found) {
    return [["warn", _("It has none: it can be trained on plain text (Standard), not on chats.")]];
  }
  const refused = found.refusals ?? {};
  if (!found.renders) return [["bad", _("It fails on a plain conversation."), refused.chat]];
  const answers = {
    tags: ["good", _("It marks what is the answer itself.")],
    growth: ["good", _("What is the answer is found by how the text grows.")],
    hidden: ["bad", _("What is the answer can’t be found in its text, so chats can’t be learned with it.")],
  };
  const able = (yes, good, none, why) => (yes ? ["good", good] : ["", none, why]);
  return [
    answers[found.answers],
    found.ends_with &&
      (found.ends_with_eos
        ? ["good", _("An answer ends with {text}.", { text: visible(found.ends_with) })]
        : [
            "warn",
            _("An answer ends with {text}, which is not the token that ends a text.", {
              text: visible(found.ends_with),
            }),
          ]),
    able(found.several_turns, _("Several turns"), _("One question and one answer only"), refused["several turns"]),
    able(found.system, _("System texts"), _("No system texts"), refused.system),
    found.default_system && [
      "",
      _("Writes a system text of its own where there is none: “{text}”", { text: found.default_system }),
    ],
    able(found.tools, _("Lists of tools"), _("No lists of tools"), refused.tools),
    able(found.tool_calls, _("Tool calls"), _("No tool calls"), refused["tool calls"]),
    able(found.tool_results, _("Results of tools"), _("No results of tools")),
  ].filter(Boolean);
}

const visible = (text) => text.replace(/\n/g, "⏎").trim();

function lora(model) {
  const modules = model.linear_modules;
  if (!modules.length) {
    const unseen = model.source === "hub" && model.lora_targets.length > 0;
    const text = unseen
      ? _("Its modules are known once it is here; these are expected: {names}", {
          names: model.lora_targets.join(", "),
        })
      : _("No linear layers were found in its weights.");
    return h("section", {}, h("h3", {}, _("LoRA")), h("p", { class: "muted" }, text));
  }
  const size = (part) => RANK * (part.in + part.out) * part.places;
  const chosen = modules.filter((part) => model.lora_targets.includes(part.name));
  const total = chosen.reduce((sum, part) => sum + size(part), 0);
  return h(
    "section",
    { class: "wide" },
    h("h3", {}, _("LoRA")),
    h(
      "p",
      { class: "muted" },
      _("With automatic targets and rank {rank} an adapter has {n} parameters.", { rank: RANK, n: count(total) }),
    ),
    h(
      "div",
      {
        class: "scroll",
        tabindex: 0,
        role: "region",
        "aria-label": _("Linear modules of {name}", { name: model.display_name }),
      },
      h(
        "table",
        { class: "table modules" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", { scope: "col" }, _("Module")),
            [_("In → out"), _("Layers"), _("At rank {rank}", { rank: RANK })].map((name) =>
              h("th", { scope: "col", class: "num" }, name),
            ),
            h("th", { scope: "col" }, _("Automatic")),
          ),
        ),
        h(
          "tbody",
          {},
          modules.map((part) => moduleRow(part, model, size(part))),
        ),
      ),
    ),
  );
}

function moduleRow(part, model, size) {
  const why = model.forbidden[part.name] ?? model.left_out[part.name];
  const automatic = model.lora_targets.includes(part.name);
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, h("code", {}, part.name)),
    h("td", { class: "num" }, `${number(part.in)} → ${number(part.out)}`),
    h("td", { class: "num" }, number(part.places)),
    h("td", { class: "num" }, count(size)),
    h(
      "td",
      {},
      automatic
        ? h("span", { class: "row" }, icon("check", "good"), _("Yes"))
        : h(
            "span",
            { class: "row muted" },
            icon(part.name in model.forbidden ? "ban" : "eq"),
            why ?? _("Only when named"),
          ),
    ),
  );
}

// -- more of them ---------------------------------------------------------------------------------------------------

async function lookUp(name) {
  const place = $("#found");
  put(place, h("p", { class: "muted" }, _("Asking about {name} …", { name })));
  try {
    put(place, found(await get(`/api/models/${path(name)}`), name));
  } catch (error) {
    put(place, refused(error, name));
  }
}

/** Why the hub, or nobody, has such a model; where it lets in only who has accepted a licence, the way there. */
function refused(error, name) {
  const box = failure(error);
  const [page] = error.fix.match(ADDRESS) ?? [];
  if (error.status === 404 && !name.includes("/")) {
    put($("p", box), h("b", {}, error.message), " ", _("Write the id as organisation/model."));
  } else if (page && error.fix.includes("HF_TOKEN")) {
    put($("p", box), h("b", {}, error.message));
    return [
      box,
      h(
        "ol",
        { class: "steps" },
        h("li", {}, _("If the model asks for it, accept its licence:"), " ", linked(page)),
        h(
          "li",
          {},
          _("On the server, type"),
          " ",
          h("code", {}, "hf auth login"),
          " ",
          _("with a token of your account, or set HF_TOKEN and start OneSeek again."),
        ),
        h("li", {}, h("button", { class: "link", type: "button", onclick: () => lookUp(name) }, _("Look it up again"))),
      ),
    ];
  } else put($("p", box), h("b", {}, error.message), " ", linked(error.fix));
  return box;
}

function found(model, asked) {
  const actions = h("div", { class: "row" });
  const pull = async () => {
    const task = await started(() => download(asked));
    if (!task) return;
    if ($(`[data-task="${task.id}"]`)) return $("#working").scrollIntoView({ block: "center" });
    const element = row(task, { named: false, onEnd: ended });
    put(actions, element);

    function ended({ status }) {
      if (status !== "done") put(actions, element, buttons);
      list();
    }
  };
  const remote = model.source === "hub";
  const buttons = [
    remote &&
      model.usable &&
      h(
        "button",
        { class: "btn primary", type: "button", onclick: pull },
        icon("down"),
        _("Download {size}", { size: bytes(model.missing_bytes) }),
      ),
    model.usable &&
      h(
        "button",
        { class: "btn", type: "button", onclick: () => train(model, remote ? asked : model.key) },
        icon("play"),
        _("Train it"),
      ),
  ];
  put(actions, buttons);
  const facts = [
    model.parameters ? _("{n} parameters", { n: count(model.parameters) }) : null,
    model.context_length && _("{n} context", { n: number(model.context_length) }),
    model.licence,
  ].filter(Boolean);
  return h(
    "article",
    { class: "found" },
    h("h3", {}, model.display_name),
    h("p", { class: "muted" }, facts.join(" · ")),
    h("div", { class: "row" }, standing(model), template(model)),
    model.problems.length > 0 && h("div", { class: "notes" }, notes({ ...model, shadows: [] })),
    !remote && h("p", { class: "msg" }, icon("check", "good"), h("span", {}, _("It is here already: see the list."))),
    actions,
    remote &&
      model.usable &&
      h("p", { class: "msg" }, icon("info"), h("span", {}, _("A run downloads it by itself, before it begins."))),
    h("details", {}, h("summary", {}, icon("chev"), _("What it can do")), abilities(model)),
  );
}

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
      { class: "btn quiet small icon", type: "button", "aria-label": _("Put away"), onclick: clear },
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
  try {
    const form = await import("./form.js");
    form.begin();
    const chosen = form.value("model.base_models") ?? [];
    if (!chosen.includes(name)) form.set({ "model.base_models": [...chosen, name] });
    location.assign("/train");
  } catch (error) {
    failed(error);
  }
}

/** A text whose addresses can be followed. */
function linked(text) {
  return text
    .split(ADDRESS)
    .map((part, place) =>
      place % 2 ? h("a", { href: part, rel: "noreferrer noopener", target: "_blank" }, part) : part,
    );
}

function listen() {
  $("#search").addEventListener("input", draw);
  $("#sift").addEventListener("change", draw);
  $("#show-all").addEventListener("click", () => {
    $("#search").value = "";
    $("[name=sift][value=all]").checked = true;
    draw();
    $("#search").focus();
  });
  $("#add").addEventListener("click", () => $("#wanted").focus());
  $("#look").addEventListener("click", async () => {
    const before = state.models.length;
    await list();
    const more = state.models.length - before;
    toast(
      more > 0 ? _n(more, "{n} more base model is here.", "{n} more base models are here.") : _("Nothing new is here."),
    );
  });
  $("#try").addEventListener("click", (event) => {
    $("#wanted").value = event.target.textContent;
    lookUp($("#wanted").value);
  });
  $("#pull").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = $("#wanted").value.trim();
    if (name) lookUp(name);
    else $("#wanted").focus();
  });
}
