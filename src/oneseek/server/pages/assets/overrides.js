// Settings of one model: what is left empty is as above, for all of them.
import * as form from "./form.js";
import { effective, message, numberIn, tallied, written } from "./settings.js";
import { called, chosen, keyOf } from "./train.js";
import { $, $$, _, _n, h, icon, mark, put, redraw } from "./ui.js";

const list = $("#overrides-list");
const parts = new Map(); // key -> its details

/** Draw the settings of each selected model, and keep them drawn. */
export function begin() {
  form.on("change", draw);
  form.on("verdict", say);
  draw();
  say();
}

function draw() {
  const keys = chosen().map(keyOf);
  for (const [key, part] of parts) if (!keys.includes(key)) (part.remove(), parts.delete(key));
  chosen().forEach((name, place) => drawPart(keyOf(name), called(name), place));
  $("#overrides-none").hidden = keys.length > 0;
  say();
}

function drawPart(key, name, place) {
  const part = parts.get(key) ?? newPart(key);
  if (list.children[place] !== part) list.insertBefore(part, list.children[place] ?? null);
  redraw($(".mk-wrap", part), place, () => [mark(place)]);
  redraw($("b", part), name, () => [name]);
  const own = Object.keys(form.settings()).filter((field) => field.startsWith(`per_model.${key}.`));
  put($(".end", part), own.length ? _n(own.length, "{n} override", "{n} overrides") : _("as above"));
  for (const box of $$("[data-own]", part)) drawField(key, box);
}

function drawField(key, box) {
  const control = $("input, select", box);
  const above = shown(effective(box.dataset.own) ?? common(control));
  if (control.matches("select")) {
    put(control.options[0], _("{value}, as above", { value: word(control, above) }));
  } else control.placeholder = _("{value}, as above", { value: above });
  const held = form.value(`per_model.${key}.${box.dataset.own}`);
  if (document.activeElement !== control || !same(held, control)) control.value = held == null ? "" : shown(held);
}

/** What everybody has who has nothing of their own. */
const common = (control) => control.dataset.default ?? control.options[0].dataset.default;

function newPart(key) {
  const part = $("#override").content.firstElementChild.cloneNode(true);
  for (const name of ["id", "for", "popovertarget", "aria-describedby"]) {
    for (const element of $$(`[${name}]`, part)) {
      element.setAttribute(name, element.getAttribute(name).replace(/^own-/, `own-${key}-`));
    }
  }
  for (const box of $$("[data-own]", part)) {
    const control = $("input, select", box);
    box.dataset.field = `per_model.${key}.${box.dataset.own}`;
    const set = () => form.set({ [`per_model.${key}.${box.dataset.own}`]: read(control) });
    control.addEventListener(control.matches("select") ? "change" : "input", set);
  }
  parts.set(key, part);
  return part;
}

// -- values ---------------------------------------------------------------------------------------------------------

/** What a field says: a number where it is one, else the text itself, which the server judges; null where it is empty. */
function read(control) {
  const text = control.value.trim();
  if (!text) return null;
  if (control.dataset.kind === "switch") return text === "true";
  if (control.dataset.kind === "choice") return text;
  if (control.dataset.kind === "names") {
    const names = text.split(/[\s,]+/).filter(Boolean);
    return names.length === 1 && ["auto", "all-linear"].includes(names[0]) ? names[0] : names;
  }
  return numberIn(text);
}

/** A value as its field has it; what a template wrote of a default is text. */
function shown(value) {
  if (Array.isArray(value)) return value.join(", ");
  const numeric = typeof value === "string" && value !== "" ? Number(value) : NaN;
  if (typeof value === "boolean") return String(value);
  return written(Number.isFinite(numeric) ? numeric : value);
}

const same = (held, control) => JSON.stringify(held ?? null) === JSON.stringify(read(control));

const word = (control, value) => [...control.options].find((option) => option.value === value)?.text ?? value;

// -- what the server says of them -----------------------------------------------------------------------------------

function say() {
  for (const [key, part] of parts) sayOf(key, part);
  const stray = form.findings("per_model").filter((finding) => !parts.has(finding.field.split(".")[1]));
  redraw($("#overrides-said"), stray, () => stray.map(strayed));
}

function sayOf(key, part) {
  const all = form.findings(`per_model.${key}`);
  for (const box of $$("[data-own]", part)) {
    const about = all.filter((finding) => finding.field === `per_model.${key}.${box.dataset.own}`);
    const control = $("input, select", box);
    const wrong = about.some((finding) => finding.severity === "error");
    control.ariaInvalid = wrong ? "true" : null;
    control.classList.toggle("warned", about.length > 0 && !wrong);
    redraw($(`#${CSS.escape(control.id)}-said`, part), about, () => about.map(message));
  }
  redraw($(".said", part), all, () => tallied(all));
}

/** Settings of a model that is not selected: what a file may have had. */
function strayed(finding) {
  const start = finding.field.split(".").slice(0, 2).join(".");
  const fields = Object.keys(form.settings()).filter((field) => field === start || field.startsWith(`${start}.`));
  const remove = () => form.set(Object.fromEntries(fields.map((field) => [field, null])));
  const text = message(finding);
  const away = h("button", { class: "link", type: "button", onclick: remove }, icon("x"), _("Remove these settings"));
  if (fields.length && !finding.changes?.length) text.append(away);
  return text;
}
