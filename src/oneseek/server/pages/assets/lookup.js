// Base models that are not here: looked up on the hub, selected, downloaded. Conversions of those that are here.
import { convert as beginToConvert, download, row, running } from "./downloads.js";
import { refused } from "./condition.js";
import { over } from "./tasks.js";
import { $, _, badge, encoded, failed, failure, get, h, icon, put, tell } from "./ui.js";
import { badges, chosen, facts, keyOf, learn, meant, modelOf, refresh, select, work } from "./train.js";

const field = $("#hub");
const found = $("#hub-found");
let asking = null;

/** Take over the field of another model, once. */
export function begin() {
  field.addEventListener("input", () => {
    asking?.abort();
    put(found);
  });
}

/** Ask the hub for a model by its id, and show what it is. */
export async function lookUp(id) {
  asking?.abort();
  if (!id) return field.focus();
  if (!id.includes("/") && !meant(id)) return put(found, failure(noId(id)));
  const mine = (asking = new AbortController());
  put(found, h("p", { class: "msg" }, icon("clock"), h("span", {}, _("Asking the hub"))));
  try {
    show(id, meant(id) ?? (await ask(id, mine.signal)));
  } catch (error) {
    if (error.name !== "AbortError")
      put(
        found,
        h(
          "div",
          { class: "hub-refused" },
          refused(error, id, () => lookUp(id)),
        ),
      );
  }
}

/** Look up a model of the selection that is not here. */
export async function find(name) {
  if (!name.includes("/")) return learn(name, { error: unknown(name) });
  learn(
    name,
    await ask(name).then(
      (model) => ({ model }),
      (error) => ({ error }),
    ),
  );
}

const noId = (id) => ({ message: _("“{id}” is no id on the hub.", { id }), fix: _("Write it as organisation/model.") });
const unknown = (name) => ({ message: _("No base model here is called {name}.", { name }), fix: _("Take it out.") });

/** Download what is missing of a model, and show how far it is. */
export async function pull(name) {
  await begun(name, () => download(modelOf(name)?.hub_id ?? name));
}

/** Write safetensors beside the pickled weights of a model. */
export async function convert(key) {
  await begun(key, () => beginToConvert(key));
}

/** Show what went on before this page was loaded. */
export async function resume() {
  const tasks = await running().catch((error) => (failed(error), []));
  for (const task of tasks) follow(meant(task.about.model)?.key ?? task.about.model, task);
}

const ask = (name, signal) => get(`/api/models/${encoded(name)}`, { signal });

function show(id, model) {
  const here = meant(id) ?? meant(model.hub_id ?? "");
  const name = here?.key ?? id;
  const selected = chosen().map(keyOf).includes(model.key);
  if (!here) learn(id, { model });
  put(
    found,
    h(
      "div",
      { class: "hub-model" },
      h("p", {}, h("b", {}, model.display_name)),
      h("p", { class: "facts" }, facts(model)),
      h("div", { class: "row" }, badges(model), here && badge("good", "check", _("Here already"))),
      model.problems.map(({ problem, fix, language }) =>
        h("p", { class: "msg" }, icon("ban", "bad"), h("span", { lang: language }, `${problem} ${fix}`)),
      ),
      h(
        "div",
        { class: "row" },
        model.usable && !selected && button("primary", "check", _("Select"), () => choose(name)),
        selected && badge("accent", "check", _("Selected")),
        model.usable && model.missing_bytes > 0 && button("", "down", _("Download"), () => leave(name, pull)),
      ),
    ),
  );
}

const button = (tone, drawing, text, does) =>
  h("button", { class: `btn small ${tone}`.trim(), type: "button", onclick: does }, icon(drawing), text);

const choose = (name) => leave(name, () => select([...chosen(), name]));

/** Do something with the model that was looked up, and go to its card. */
async function leave(name, does) {
  field.value = "";
  put(found);
  await does(name);
  $(`[data-model="${CSS.escape(name)}"] input`)?.focus();
}

async function begun(name, asked) {
  try {
    follow(name, await asked());
  } catch (error) {
    failed(error);
  }
}

function follow(name, task) {
  if (!over(task) && task.warning) tell(task.warning);
  const element = row(task, { named: false, onEnd: end });
  work(name, element);

  async function end({ status }) {
    if (status === "failed") return work(name, element, false); // it says why
    work(name, null);
    await refresh();
    if (!meant(name) && chosen().includes(name)) await find(name); // how much is still missing
  }
}
