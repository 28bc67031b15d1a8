// A dataset in another format or container: what to write, under which name, and what the server refused.
import { $, LONG, _, bytes, failed, failure, Failure, formatName, h, icon, post, put, tell, toast } from "./ui.js";
import { free, nameTaken } from "./upload.js";

const CONTAINERS = { jsonl: "JSONL", json: "JSON", csv: "CSV", parquet: "Parquet" };

const ABOUT = () => ({
  messages: _("Chats of messages with role and content, for the strategy Chat."),
  sharegpt: _("Chats of turns with from and value, for the strategy Chat."),
  text: _("One text a row, for the strategy Standard."),
  prompt_completion: _("One prompt and its answer a row, for the strategy Standard."),
  alpaca: _("An instruction, an input and an output a row, for the strategy Standard."),
  preference: _("A prompt with a better and a worse answer a row, for DPO."),
  preference_chat: _("A chat with a better and a worse answer a row, for DPO."),
  preference_sharegpt: _("A chat of turns with a better and a worse answer a row, for DPO."),
});

// What each format is trained with, the ones that people want most first.
const SUITS = {
  messages: { strategy: "chat", method: "sft" },
  prompt_completion: { strategy: "standard", method: "sft" },
  preference_chat: { strategy: "chat", method: "dpo" },
  preference: { strategy: "standard", method: "dpo" },
  text: { strategy: "standard", method: "sft" },
  sharegpt: { strategy: "chat", method: "sft" },
  alpaca: { strategy: "standard", method: "sft" },
  preference_sharegpt: { strategy: "chat", method: "dpo" },
};

/** The formats that a dataset can become and that suit a `strategy` or a `method`, the most useful first. */
export const targets = (dataset, suits = {}) =>
  Object.keys(SUITS).filter(
    (format) =>
      dataset.converts_to.includes(format) && Object.entries(suits).every(([what, way]) => SUITS[format][what] === way),
  );

/** Ask for a format, beginning with one that `suits`, and convert. `names` are those that the store has. Resolves to what
 * the server says of the new dataset, null where it was closed; late(): called where it is stored all the same. */
export async function converted(dataset, names, { suits, late } = {}) {
  if ($("dialog.convert")) return null; // it was asked for twice
  const formats = [...targets(dataset), dataset.format];
  const state = { to: targets(dataset, suits)[0] ?? formats[0], container: dataset.container, typed: false };
  if (state.to === dataset.format) state.container = dataset.container === "jsonl" ? "parquet" : "jsonl";
  const field = nameField(() => (state.typed = true));
  const said = h("div", { class: "convert-said" });
  const go = h("button", { class: "btn primary", type: "submit" }, _("Convert"));
  const suggest = () => {
    if (!state.typed) field.value = suggested(dataset, state, names);
  };
  const changed = () => (suggest(), put(said));
  const form = h(
    "form",
    { onsubmit: (event) => (event.preventDefault(), convert()) },
    head(dataset),
    h(
      "div",
      { class: "dlg-body stack" },
      formatChoice(dataset, formats, state, changed),
      containerChoice(state, changed),
      h("div", { class: "field" }, h("label", { for: field.id }, _("Name of the new dataset")), field),
      said,
    ),
    h(
      "div",
      { class: "dlg-foot" },
      h("button", { class: "btn", type: "button", onclick: () => dialog.close() }, _("Cancel")),
      go,
    ),
  );
  const dialog = h("dialog", { class: "narrow-dlg convert", "aria-labelledby": "convert-t" }, form);
  let told = null;

  async function convert() {
    if (go.getAttribute("aria-disabled")) return;
    go.setAttribute("aria-disabled", "true");
    const doing = _("Converting {size}", { size: bytes(dataset.size_bytes) });
    put(said, h("progress", { "aria-label": doing }));
    tell(doing);
    const asked = { to: state.to, container: state.container, name: field.value.trim() };
    try {
      told = await post(`/api/datasets/${dataset.sha256}/convert`, asked, { patience: LONG });
      if (dialog.open) dialog.close();
      else storedLate(told, late);
    } catch (error) {
      if (!dialog.open) return failed(error); // it was closed meanwhile: nobody reads what stands in it
      if (!(error instanceof Failure)) throw error;
      put(said, names.has(asked.name) ? failure(nameTaken(asked.name)) : refusal(error));
    }
    go.removeAttribute("aria-disabled");
  }

  suggest();
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(told);
    }),
  );
}

/** The dialog was closed while it was converted: it is there now, and nothing more than that. */
function storedLate({ name }, late) {
  toast(_("{name} is stored.", { name }));
  late?.();
}

const nameField = (oninput) =>
  h("input", {
    class: "input",
    id: "convert-name",
    maxlength: 120,
    spellcheck: "false",
    autocomplete: "off",
    oninput,
  });

/** A name that is free, after the dataset and what it becomes. */
function suggested(dataset, { to, container }, names) {
  const stem = dataset.name.replace(/\.(jsonl|json|csv|tsv|parquet)$/i, "");
  const told = to === dataset.format ? stem : `${stem}-${to.replaceAll("_", "-")}`;
  return free(`${told.slice(0, 100)}.${container}`, names);
}

const head = (dataset) =>
  h(
    "div",
    { class: "dlg-head" },
    h("h2", { id: "convert-t", tabindex: -1, autofocus: true }, _("Convert {name}", dataset)),
    h(
      "p",
      { class: "muted" },
      _(
        "{name} stays as it is; the result is a dataset of its own. Where a row would lose something, nothing is written.",
        dataset,
      ),
    ),
  );

const formatChoice = (dataset, formats, state, changed) =>
  choice("to", _("Format"), formats, state, changed, {
    label(format) {
      const name = formatName(format);
      return format === dataset.format ? _("{format}, as it is", { format: name }) : name;
    },
    about: (format) => h("span", {}, ABOUT()[format], " ", h("code", {}, format)),
  });

const containerChoice = (state, changed) =>
  choice("container", _("File"), Object.keys(CONTAINERS), state, changed, {
    label: (container) => CONTAINERS[container],
    about: (container) => (container === "csv" ? _("Opens in a spreadsheet; messages stand in a cell as JSON.") : ""),
  });

/** One of several values for state[name], each with its label, and what the chosen one is about below. */
function choice(name, legend, values, state, changed, { label, about }) {
  const told = h("p", { class: "msg", id: `convert-${name}-about` }, about(state[name]));
  const chip = (value) =>
    h(
      "label",
      { class: "chip" },
      h("input", {
        type: "radio",
        name: `convert-${name}`,
        value,
        checked: state[name] === value,
        onchange: () => ((state[name] = value), put(told, about(value)), changed()),
      }),
      label(value),
    );
  return h(
    "fieldset",
    { "aria-describedby": told.id },
    h("legend", { class: "label" }, legend),
    h("div", { class: "chips" }, values.map(chip)),
    told,
  );
}

/** A refusal that names rows, each on a line of its own. */
function refusal(error) {
  const [first, ...rows] = error.message.split(/(?:: |; )(?=(?:lines?|rows?|rad|rader) \d)/);
  if (!rows.length) return failure(error);
  return h(
    "div",
    { class: "failure", role: "alert" },
    icon("err", "bad"),
    h(
      "div",
      {},
      h("b", {}, first, ":"),
      h(
        "ul",
        {},
        rows.map((row) => h("li", {}, row)),
      ),
      h("p", {}, error.fix),
    ),
  );
}

/** What a conversion left out, in a sentence; "" where nothing was. */
export const leftOut = (added) =>
  added.left_out?.length
    ? _("Left out, since the format does not use them: {fields}.", { fields: added.left_out.join(", ") })
    : "";
