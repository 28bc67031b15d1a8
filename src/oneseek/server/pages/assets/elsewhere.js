// Findings about settings that the form does not show, each with the way to take its setting out. Loaded when there is one.
import * as form from "./form.js";
import { message } from "./settings.js";
import { $, _, h, redraw } from "./ui.js";

/** Show these findings, and no others. */
export function draw(found) {
  redraw($("#elsewhere ul"), found, () => found.map((finding) => h("li", {}, message(finding), takeOut(finding))));
}

function takeOut({ field, changes }) {
  const under = Object.keys(form.settings()).filter((each) => each === field || each.startsWith(`${field}.`));
  if (!under.length || changes?.length) return null;
  const out = () => form.set(Object.fromEntries(under.map((each) => [each, undefined])));
  return h("button", { class: "btn small", type: "button", onclick: out }, _("Take {name} out", { name: field }));
}
