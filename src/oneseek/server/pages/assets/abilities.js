// What a base model can do, as its own files tell.
import { _, _n, by, bytes, count, h, icon, number } from "./ui.js";

const RANK = 16; // of the example of how many parameters an adapter has

/** Files, chat template and LoRA modules of a model. model: of GET /api/models/{key}. */
export function abilities(model) {
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
    tags: ["good", _("It marks the answers itself.")],
    growth: ["good", _("Its answers are found by how the text grows with each message.")],
    hidden: ["bad", _("Its answers can’t be told from the rest of the text, so chats can’t be learned with it.")],
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
  const why = by(model.forbidden, part.name) ?? by(model.left_out, part.name);
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
            icon(by(model.forbidden, part.name) ? "ban" : "eq"),
            why ?? _("Only when named"),
          ),
    ),
  );
}
