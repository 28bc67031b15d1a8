// The Train form's settings: numbers with their sliders, choices, switches, what the server says of each, and the rail
// that sums it up. What not every visit needs is loaded when it is: estimate.js, review.js, config.js.
import { $, $$, _, _n, badge, failed, h, icon, language, number, part, put, redraw, showMachine, tell } from "./ui.js";
import * as form from "./form.js";

const PATIENCE = 400; // milliseconds after which it is said that an answer takes its time
const SHOWN = 3; // findings at a field; all of them are in the review

const rows = new Map(); // by field: the element around it
let waiting = 0; // the timer of an answer that takes its time
let estimated = false; // whether there ever was something to estimate
let pressed = null; // the button of a fix, and what it is in: it goes when the server has agreed

/** Draw the settings, the rail and the way to the start, and keep them drawn. */
export function begin() {
  for (const row of $$("#strategy, #lora, #training").flatMap((section) => $$("[data-field][data-kind]", section))) {
    rows.set(row.dataset.field, row);
    KINDS[row.dataset.kind].bind(row);
  }
  form.on("change", changed);
  form.on("verdict", judged);
  for (const button of $$("[data-review]")) button.addEventListener("click", () => later("review", "open"));
  $("#load-config").addEventListener("click", () => $("#config-file").click());
  $("#config-file").addEventListener("change", (event) => later("config", "load", event.target));
  $("#save-config").addEventListener("click", () => later("config", "save"));
  $("#start-over").addEventListener("click", () => later("config", "startOver"));
  $("#form").addEventListener("submit", (event) => event.preventDefault());
  $("#data-validation-dataset").addEventListener("focus", offerStored);
  changed([]);
}

/** What mends a finding as a button whose words name the change; nothing where settings alone are not the fix.
 * look: its classes. */
export function fixButton(finding, look = "link") {
  if (!finding.changes?.length) return null;
  const names = finding.changes.map(({ field }) => labelOf(field));
  const mend = (event) => {
    const from = event.currentTarget;
    pressed = { from, around: from.closest("dialog, [data-field], section") };
    form.mend(finding);
    tell(_("Changed: {names}", { names: names.join(", ") }));
  };
  const about = h("span", { class: "vh" }, ` (${names.join(", ")})`);
  return h("button", { class: look, type: "button", onclick: mend }, fixWords(finding.changes), about);
}

/** A finding in the server's words, as the line below a field. */
export function message(finding) {
  const [tone, sign] = toneOf([finding]);
  const fix = fixButton(finding);
  return h(
    "p",
    { class: "msg" },
    h("span", { class: tone }, icon(sign)),
    h("span", {}, h("span", { lang: tongue(finding), class: "words" }, `${finding.problem} ${finding.fix}`), " ", fix),
  );
}

/** How bad the worst of some findings is: its tone and its icon. Before anything was chosen, nothing is wrong. */
export function toneOf(found) {
  if (found.length && form.pristine() && missing(found)) return ["muted", "info"];
  const { errors, warnings } = tally(found);
  return errors ? ["bad", "err"] : warnings ? ["warn", "warn"] : ["good", "check"];
}

/** The language of a finding where it is not the page's. */
export const tongue = (finding) => (finding.language && finding.language !== language ? finding.language : null);

/** How many errors there are among findings, and how many warnings, each as a badge; false where there are none. */
export function tallied(found) {
  const { errors, warnings } = tally(found);
  return [
    errors > 0 && badge("bad", "err", _n(errors, "{n} error", "{n} errors")),
    warnings > 0 && badge("warn", "warn", _n(warnings, "{n} warning", "{n} warnings")),
  ];
}

function tally(found) {
  const errors = found.filter((finding) => finding.severity === "error").length;
  return { errors, warnings: found.length - errors };
}

/** What a setting is called on this page. */
export const labelOf = (field) =>
  $(
    "h2, label, legend span",
    rows.get(field) ?? placeOf(field) ?? document.createElement("p"),
  )?.firstChild.data.trim() || field;

/** A number as this form writes and reads it. */
export function written(value) {
  if (typeof value !== "number") return typeof value === "string" ? value : JSON.stringify(value);
  const text = value !== 0 && Math.abs(value) < 0.001 ? value.toExponential() : String(value);
  return language === "sv" ? text.replace(".", ",") : text;
}

/** The value of a setting, or its default. */
export function effective(field) {
  const held = form.value(field);
  if (held !== undefined) return held;
  const { kind, default: usual } = rows.get(field)?.dataset ?? {};
  if (usual === undefined) return undefined;
  return kind === "switch" ? usual === "true" : Number(usual);
}

// -- drawn again ----------------------------------------------------------------------------------------------------

function changed(fields) {
  for (const field of fields) {
    const row = rows.get(field);
    if (!row) continue;
    KINDS[row.dataset.kind].draw(row, form.value(field));
    row.classList.add("stale");
    weigh(row);
  }
  if (fields.some((field) => WAYS_OF.includes(field))) later("ways", "draw");
  drawSentences();
  $("#dpo").hidden = form.value("training.method") !== "dpo";
  $("#form").classList.toggle("stale", !form.settled());
  clearTimeout(waiting);
  if (!form.settled()) waiting = setTimeout(drawVerdict, PATIENCE);
}

function judged(verdict) {
  $("#form").classList.toggle("stale", !form.settled());
  for (const row of rows.values()) {
    if (form.settled()) row.classList.remove("stale");
    weigh(row);
  }
  drawElsewhere();
  drawAllSettings();
  drawVerdict();
  drawDevices(verdict?.machine);
  if ((estimated ||= Boolean(verdict?.estimate) || !form.pristine())) later("estimate", "draw");
  setTimeout(keepFocus);
}

function keepFocus() {
  if (!pressed || pressed.from.isConnected) return;
  if (document.activeElement === document.body) focusIn(pressed.around);
  pressed = null;
}

/** The worth of a setting: its badge, its mark of an error, and what the server says of it. */
function weigh(row) {
  const { field, low, high } = row.dataset;
  const found = form.findings(field).filter((finding) => finding.field === field);
  const held = form.value(field);
  const wrong = found.some((finding) => finding.severity === "error");
  const measured = low !== undefined && typeof held === "number";
  const beyond = measured && (held < Number(low) ? "below" : held > Number(high) ? "above" : "");
  const unchecked = form.failure() && row.classList.contains("stale");
  const usual = unchecked ? "unchecked" : measured ? "good" : low ? "default" : "";
  const worth = wrong ? "error" : beyond || (found.length ? "noted" : usual);
  const place = $(".worth", row);
  if (place && row.dataset.worth !== worth) put(place, WORTHS()[worth]);
  row.dataset.worth = worth;
  for (const control of $$("input:not([type=range], [type=radio]), select, textarea", row)) {
    control.setAttribute("aria-invalid", wrong);
    control.classList.toggle("warned", !wrong && (Boolean(beyond) || found.length > 0));
  }
  $(".slider", row)?.classList.toggle("warned", wrong || Boolean(beyond));
  say($(".said", row), found);
}

const WORTHS = () => ({
  error: badge("bad", "err", _("Error")),
  below: badge("warn", "warn", _("Below range")),
  above: badge("warn", "warn", _("Above range")),
  noted: badge("warn", "warn", _("Noted")),
  good: badge("good", "check", _("In range")),
  default: h("small", { class: "muted" }, _("Default")),
  unchecked: badge("", "clock", _("Not checked")),
});

/** The first findings below their field. */
function say(place, found) {
  const more = found.length - SHOWN;
  const all = () => later("review", "open");
  redraw(place, found, () => [
    found.slice(0, SHOWN).map(message),
    more > 0 &&
      h(
        "p",
        { class: "msg" },
        h("button", { class: "link", type: "button", onclick: all }, _("{n} more", { n: more })),
      ),
  ]);
}

// -- kinds of settings ----------------------------------------------------------------------------------------------

const NUMBER = {
  bind(row) {
    const [text, range] = [$("input.input", row), $("input[type=range]", row)];
    text.addEventListener("input", () => form.set({ [row.dataset.field]: numberIn(text.value) }));
    range?.addEventListener("input", () => form.set({ [row.dataset.field]: fromSlider(row, Number(range.value)) }));
    if (range) toSlider(row, effective(row.dataset.field));
  },
  draw(row, held) {
    const text = $("input.input", row);
    if (numberIn(text.value) !== held) text.value = held === undefined ? "" : written(held);
    if ($("input[type=range]", row)) toSlider(row, effective(row.dataset.field));
  },
};

const TEXT = {
  bind(row) {
    const text = $("input", row);
    text.addEventListener("input", () => form.set({ [row.dataset.field]: text.value.trim() || undefined }));
  },
  draw(row, held) {
    const text = $("input", row);
    if (text.value.trim() !== (held ?? "")) text.value = held === undefined ? "" : written(held);
  },
};

const LINES = {
  bind(row) {
    const text = $("textarea", row);
    text.addEventListener("input", () => form.set({ [row.dataset.field]: lines(text.value) }));
  },
  draw(row, held) {
    const text = $("textarea", row);
    const prompts = held === undefined ? held : [held].flat().map(written);
    if (JSON.stringify(lines(text.value)) !== JSON.stringify(prompts)) text.value = (prompts ?? []).join("\n");
  },
};

const CHOICE = {
  bind(row) {
    const list = $("select", row);
    list.addEventListener("change", () => form.set({ [row.dataset.field]: list.value || undefined }));
  },
  draw(row, held) {
    const list = $("select", row);
    const text = held === undefined ? "" : written(held);
    // a file may say what is no choice: it is shown as it is, and the server says that it is wrong
    if (![...list.options].some((option) => option.value === text)) list.append(h("option", { value: text }, text));
    list.value = text;
  },
};

const SWITCH = {
  bind(row) {
    const box = $("input", row);
    box.addEventListener("change", () => form.set({ [row.dataset.field]: box.checked }));
  },
  draw(row) {
    $("input", row).checked = effective(row.dataset.field) === true;
  },
};

const WAYS = {
  bind(row) {
    const field = row.dataset.field;
    for (const way of $$("input", row)) {
      way.addEventListener("change", () => {
        $(`#${way.name}-switched`).hidden = true;
        form.set({ [field]: way.value });
      });
    }
  },
  draw() {
    // ways.js does, with what the dataset allows
  },
};

const KINDS = {
  number: NUMBER,
  "whole number": NUMBER,
  text: TEXT,
  lines: LINES,
  choice: CHOICE,
  switch: SWITCH,
  ways: WAYS,
};
const WAYS_OF = ["data.dataset", "data.strategy", "training.method"];

const lines = (text) => {
  const told = text.split("\n").filter((each) => each.trim());
  return told.length ? told : undefined;
};

/** The number that somebody wrote, with the signs of the language; as it stands where it is none, for the server to
 * say so; undefined where nothing stands there. */
export function numberIn(text) {
  let plain = text.replace(/\s/g, "").replace("\u2212", "-");
  if (!plain) return undefined;
  if (language === "sv" && !plain.includes(".")) plain = plain.replace(",", ".");
  if (language !== "sv" && /^\d{1,3}(,\d{3})+(\.\d*)?$/.test(plain)) plain = plain.replaceAll(",", "");
  if (!/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(plain)) return text.trim();
  const told = Number(plain);
  const exact = Number.isFinite(told) && (!Number.isInteger(told) || Number.isSafeInteger(told));
  return exact ? told : text.trim();
}

function fromSlider(row, place) {
  if ("log" in row.dataset) return Number((10 ** place).toPrecision(2));
  return row.dataset.kind === "whole number" ? Math.round(place) : Number(place.toPrecision(6));
}

function toSlider(row, held) {
  if (typeof held !== "number") return;
  const range = $("input[type=range]", row);
  range.value = "log" in row.dataset ? Math.log10(Math.max(held, Number.MIN_VALUE)) : held;
  range.setAttribute("aria-valuetext", written(held));
}

// -- sentences of switches ------------------------------------------------------------------------------------------

function drawSentences() {
  const sentences = { "lora-use-rslora": scaled(), "adaptive-weights-enabled": adaptive(), ...autoStop() };
  for (const [id, text] of Object.entries(sentences)) redraw($(`#${id}-now`), text, () => [text]);
}

function scaled() {
  const [rank, alpha] = [effective("lora.r"), effective("lora.alpha")];
  const root = effective("lora.use_rslora");
  const factor = root ? alpha / Math.sqrt(rank) : alpha / rank;
  if (!Number.isFinite(factor)) return "";
  const values = { factor: written(Number(factor.toPrecision(3))) };
  if (root) return _("The update is scaled by alpha / √rank: {factor}.", values);
  return _("The update is scaled by alpha / rank: {factor}.", values);
}

function adaptive() {
  if (!effective("adaptive_weights.enabled")) return _("Every model keeps the base learning rate.");
  const strategy = "adaptive_weights.adjust_strategy";
  const values = {
    boost: times(1 + effective(`${strategy}.top_model_boost`)),
    penalty: times(1 - effective(`${strategy}.bottom_model_penalty`)),
    least: times(effective("adaptive_weights.min_multiplier")),
    most: times(effective("adaptive_weights.max_multiplier")),
  };
  return _(
    "After each epoch the best model learns faster ({boost}) and the worst slower ({penalty}), between {least} and {most}.",
    values,
  );
}

function autoStop() {
  const id = "confidence-auto-stop-enabled";
  if (!effective("confidence_auto_stop.enabled")) return { [id]: _("Every epoch is trained.") };
  const patience = effective("confidence_auto_stop.patience");
  const values = {
    metric: byLoss() ? _("the validation loss") : _("bits per byte"),
    threshold: written(effective("confidence_auto_stop.threshold")),
    least: written(effective("confidence_auto_stop.min_epochs")),
  };
  return {
    [id]: _n(
      patience,
      "Stop when {metric} moves less than {threshold} for {n} epoch, never before epoch {least}.",
      "Stop when {metric} moves less than {threshold} for {n} epochs, never before epoch {least}.",
      values,
    ),
  };
}

const byLoss = () => form.value("training.rank_by") === "val_loss" || form.value("training.method") === "dpo";
const times = (factor) => (Number.isFinite(factor) ? `${written(Number(factor.toPrecision(4)))}×` : "–");

// -- what stands in the way -----------------------------------------------------------------------------------------

const STEPS = {
  models: () => chosen("model.base_models"),
  data: () => (form.verdict().rows ? _n(form.verdict().rows, "{n} row", "{n} rows") : form.value("data.dataset")),
  strategy: () => $$("#strategy input:checked").map(nameOfWay).join(", "),
  lora: () => _("Rank {rank}", { rank: written(effective("lora.r")) }),
  training: () => _n(effective("training.num_epochs"), "{n} epoch", "{n} epochs"),
};

const nameOfWay = (way) => way.parentElement.textContent.trim();
function chosen(field) {
  const count = [form.value(field) ?? []].flat().length;
  return _n(count, "One selected", "{n} selected");
}

/** The section of the form that a setting belongs to. */
export function stepOf(field) {
  if (/^model\.(base_models|name)$/.test(field)) return "models";
  if (/^data\.(dataset|validation_dataset|bad_rows)$/.test(field)) return "data";
  if (/^(data\.strategy|training\.method)$/.test(field)) return "strategy";
  return field.startsWith("lora.") ? "lora" : "training";
}

/** Whether findings only say that something is still to be chosen. */
const missing = (found) => found.every((each) => /^(base-models-selected|dataset-given)$/.test(each.rule));

/** What is found in all; what is not known now is not told as known. */
function counts() {
  if (form.failure()) return [badge("warn", "warn", _("Not checked"))];
  if (!form.verdict() || !form.settled()) return [badge("", "clock", _("Checking"))];
  const found = form.verdict().findings;
  const [errors, warnings] = tallied(found);
  if (errors && form.pristine() && missing(found)) {
    return [badge("", "info", _n(found.length, "{n} thing to choose", "{n} things to choose"))];
  }
  return [errors || badge("good", "check", _("No errors")), warnings];
}

function drawVerdict() {
  clearTimeout(waiting);
  const shown = counts();
  const key = [shown.map((each) => each && each.textContent), form.failure()?.message];
  redraw($("#verdict"), key, () => [shown, form.failure() && away(form.failure())]);
  redraw($("#verdict-below"), key, counts);
  drawSteps();
  if (form.settled()) return;
  for (const step of Object.keys(STEPS)) {
    redraw($(`#step-${step}`).firstElementChild, "unchecked", () => [icon("clock")]);
  }
}

/** Draw how each section stands, where that is known of what is asked for now. */
export function drawSteps() {
  if (!form.settled()) return;
  for (const [step, state] of Object.entries(STEPS)) drawStep(step, state);
}

function drawStep(step, state) {
  const found = form.verdict().findings.filter((finding) => stepOf(finding.field) === step);
  const { errors, warnings } = tally(found);
  const [tone, sign] = toneOf(found);
  let text = state();
  if (errors) text = missing(found) ? _("Not chosen yet") : _n(errors, "{n} error", "{n} errors");
  else if (warnings) text = _n(warnings, "{n} warning", "{n} warnings");
  const place = $(`#step-${step}`);
  redraw(place.firstElementChild, sign, () => [icon(sign, tone)]);
  redraw(place.lastElementChild, text, () => [text]);
}

/** The server did not answer: what stands here stays, and is judged when it does. */
function away(failure) {
  const again = h("button", { class: "link", type: "button", onclick: form.judge }, _("Check now"));
  const kept = _("Your settings are kept here, and are checked again by themselves.");
  return h("span", { class: "away" }, `${failure.message} ${failure.fix} ${kept} `, again);
}

/** Findings about what this form does not show: a file may name any setting, and hidden ones may be set. */
function drawElsewhere() {
  const found = (form.verdict()?.findings ?? []).filter(
    ({ field }) => !ELSEWHERE_SAID.test(field) && (!placeOf(field) || placeOf(field).closest("[hidden]")),
  );
  $("#elsewhere").hidden = !found.length;
  if (found.length) later("elsewhere", "draw", found);
}

const ELSEWHERE_SAID = /^(model\.base_models$|data\.dataset$|lora\.target_modules$|per_model(\.|$))/;

function drawAllSettings() {
  const inside = $$("#all-settings [data-field]").map((row) => row.dataset.field);
  const set = inside.filter((field) => form.value(field) !== undefined).length;
  const found = (form.verdict()?.findings ?? []).filter((finding) => inside.includes(finding.field));
  redraw($("#all-said"), [set, tally(found)], () => [
    tallied(found),
    h("span", {}, set ? _("changed: {n}", { n: number(set) }) : _("all as by default")),
  ]);
}

function drawDevices(machine) {
  if (!machine) return;
  showMachine(machine);
  const [row, list] = [$("#device-row"), $("#device")];
  row.hidden = machine.devices.length < 2 && form.value("device") === undefined;
  const devices = machine.devices.map(({ name, title }) => ({ name, title: title ? `${title} (${name})` : name }));
  redraw(list, devices, () => [
    list.firstElementChild,
    devices.map(({ name, title }) => h("option", { value: name }, title)),
  ]);
  CHOICE.draw(row, form.value("device"));
}

// -- small things -----------------------------------------------------------------------------------------------

const MODULES = {
  config: () => import("./config.js"),
  elsewhere: () => import("./elsewhere.js"),
  estimate: () => import("./estimate.js"),
  review: () => import("./review.js"),
  ways: () => import("./ways.js"),
};

/** Call a function of a module that is loaded by now or will be. */
async function later(name, function_, ...given) {
  const module = await part(MODULES[name]());
  try {
    await module?.[function_](...given);
  } catch (error) {
    failed(error);
  }
}

/** The element of a setting, null where it has none on this page. */
export const placeOf = (field) => $(`[data-field="${CSS.escape(field)}"]`);

/** Focus what somebody would change there: not the help beside it. */
export function focusIn(around) {
  const first = $("h2[tabindex], input:not([type=range]), select, textarea", around) ?? $("button", around);
  first?.focus({ preventScroll: true });
}

/** What a button that makes these changes says. */
function fixWords(changes) {
  if (changes.some(({ field }) => field === "data.bad_rows")) return _("Set aside");
  const [{ field, value: wanted }] = changes;
  if (wanted === null) return rows.has(field) ? _("Use the default") : _("Remove");
  if (typeof wanted === "boolean") return wanted ? _("Turn on") : _("Turn off");
  if (field === "lora.target_modules" && wanted === "auto") return $("[data-targets=auto]").textContent;
  const renamed = changes.some((change) => change.value === null);
  const words = renamed ? [field] : changes.map(valueWords);
  return _("Use {value}", { value: words.join(", ") });
}

function valueWords({ field, value: wanted }) {
  const way = $(`#strategy input[value="${CSS.escape(String(wanted))}"]`);
  if (way && WAYS_OF.includes(field)) return nameOfWay(way);
  const option = $$("option", rows.get(field) ?? document.createElement("p")).find((each) => each.value === wanted);
  if (option) return option.textContent;
  return Array.isArray(wanted) ? wanted.join(", ") : written(wanted ?? "");
}

function offerStored() {
  const stored = $$("#data-dataset option").filter((option) => option.value);
  put(
    $("#stored-datasets"),
    stored.map((option) => h("option", { value: option.value })),
  );
}
