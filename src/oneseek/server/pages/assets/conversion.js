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
 * the server says of the new dataset, null where it was closed. */
export async function converted(dataset, names, suits) {
  if ($("dialog.convert")) return null; // it was asked for twice
  const formats = [...targets(dataset), dataset.format];
  const state = { to: targets(dataset, suits)[0] ?? formats[0], container: dataset.container, typed: false };
  if (state.to === dataset.format) state.container = dataset.container === "jsonl" ? "parquet" : "jsonl";
  const field = h("input", {
    class: "input",
    id: "convert-name",
    maxlength: 120,
    spellcheck: "false",
    autocomplete: "off",
    oninput: () => (state.typed = true),
  });
  const said = h("div", { class: "convert-said" });
  const go = h("button", { class: "btn primary", type: "submit" }, _("Convert"));
  const close = h("button", { class: "btn", type: "button", onclick: () => dialog.close() }, _("Cancel"));

  const suggest = () => {
    if (state.typed) return;
    const stem = dataset.name.replace(/\.(jsonl|json|csv|tsv|parquet)$/i, "");
    const told = state.to === dataset.format ? stem : `${stem}-${state.to.replaceAll("_", "-")}`;
    field.value = free(`${told.slice(0, 100)}.${state.container}`, names);
  };
  const choice = (name, legend, choices, labels, about) => {
    const told = h("p", { class: "msg", id: `convert-${name}-about` }, about(state[name]));
    return h(
      "fieldset",
      { "aria-describedby": told.id },
      h("legend", { class: "label" }, legend),
      h(
        "div",
        { class: "chips" },
        choices.map((value) =>
          h(
            "label",
            { class: "chip" },
            h("input", {
              type: "radio",
              name: `convert-${name}`,
              value,
              checked: state[name] === value,
              onchange: () => ((state[name] = value), suggest(), put(told, about(value)), put(said)),
            }),
            labels(value),
          ),
        ),
      ),
      told,
    );
  };

  const dialog = h(
    "dialog",
    { class: "narrow-dlg convert", "aria-labelledby": "convert-t" },
    h(
      "form",
      { onsubmit: (event) => (event.preventDefault(), convert()) },
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
      ),
      h(
        "div",
        { class: "dlg-body stack" },
        choice(
          "to",
          _("Format"),
          formats,
          (format) => {
            const name = formatName(format);
            return format === dataset.format ? _("{format}, as it is", { format: name }) : name;
          },
          (format) => h("span", {}, ABOUT()[format], " ", h("code", {}, format)),
        ),
        choice(
          "container",
          _("File"),
          Object.keys(CONTAINERS),
          (container) => CONTAINERS[container],
          (container) => (container === "csv" ? _("Opens in a spreadsheet; messages stand in a cell as JSON.") : ""),
        ),
        h("div", { class: "field" }, h("label", { for: "convert-name" }, _("Name of the new dataset")), field),
        said,
      ),
      h("div", { class: "dlg-foot" }, close, go),
    ),
  );

  async function convert() {
    if (go.getAttribute("aria-disabled")) return;
    go.setAttribute("aria-disabled", "true");
    put(said, h("progress", { "aria-label": _("Converting {size}", { size: bytes(dataset.size_bytes) }) }));
    tell(_("Converting {size}", { size: bytes(dataset.size_bytes) }));
    const { to, container } = state;
    const asked = { to, container, name: field.value.trim() };
    try {
      dialog.told = await post(`/api/datasets/${dataset.sha256}/convert`, asked, { patience: LONG });
      if (!dialog.open) toast(_("{name} is stored.", { name: dialog.told.name })); // it was closed meanwhile
      dialog.close();
    } catch (error) {
      if (!dialog.open) return failed(error); // it was closed meanwhile: nobody reads what stands in it
      if (!(error instanceof Failure)) throw error;
      put(said, names.has(field.value.trim()) ? failure(nameTaken(field.value.trim())) : refusal(error));
    }
    go.removeAttribute("aria-disabled");
  }

  suggest();
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.told ?? null);
    }),
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
