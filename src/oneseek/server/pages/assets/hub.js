// A base model of the hub: looked up by its id, shown, and downloaded.
import { abilities } from "./abilities.js";
import { linked, notes, refused as reason, standing, template } from "./condition.js";
import { download, row } from "./downloads.js";
import { $, _, bytes, count, encoded, get, h, icon, number, put } from "./ui.js";

let asking = null;

/** Ask the hub for a model by its id, and show what it is; the latest question wins. page: `started(begin)` begins a
 * task and answers it, null where it could not; `train(model, name)` selects a model for the next run; `list()` reads anew
 * what is here. */
export async function lookUp(name, page) {
  const place = $("#found");
  asking?.abort();
  asking = new AbortController();
  put(place, h("p", { class: "muted" }, _("Asking about {name} …", { name })));
  try {
    put(place, found(await get(`/api/models/${encoded(name)}`, { signal: asking.signal }), name, page));
  } catch (error) {
    if (error.name !== "AbortError") put(place, refused(error, name, page));
  }
}

/** Why the hub, or nobody, has such a model. */
function refused(error, name, page) {
  const box = reason(error, name, () => lookUp(name, page));
  if (!box.matches(".failure")) return box;
  const fix =
    error.status === 404 && !name.includes("/") ? _("Write the id as organisation/model.") : linked(error.fix);
  put($("p", box), h("b", {}, error.message), " ", fix);
  return box;
}

function found(model, asked, { started, train, list }) {
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
