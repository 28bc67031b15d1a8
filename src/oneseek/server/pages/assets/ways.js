// Strategy and method: what the chosen dataset makes impossible can't be chosen, and is said; what was chosen before and
// is impossible now is switched, and that is said too. Loaded with the first dataset, or the first choice.
import { $, $$, Failure, _, coded, h, icon, put, redraw, tell } from "./ui.js";
import * as form from "./form.js";
import { drawSteps } from "./settings.js";
import { targets } from "./conversion.js";
import { convertDataset, datasetOf } from "./train.js";

const known = { name: undefined, dataset: null }; // the dataset that is chosen, as the API tells it

form.on("change", draw);
form.on("verdict", () => {
  draw();
  switchForModels();
});

/** Draw both choices as they are now. */
export function draw() {
  learnOfDataset();
  drawWay("strategy", strategyNow());
  drawWay("method", methodNow());
  drawSteps();
}

const NEEDS = () => ({
  chat: _("Chat needs `messages`, `conversations`, or preferences between them"),
  standard: _("Standard needs `text`, `prompt` and `completion`, or preferences between texts"),
  sft: _("SFT needs one answer a row"),
  dpo: _("DPO needs `chosen` and `rejected`"),
});
const MEANS = () => ({
  chat: _("Each model’s own chat template; only the assistant’s answers are learned."),
  standard: _("Plain text, without a chat template."),
  sft: _("Learns the answers as they are."),
  dpo: _("Learns to prefer `chosen` to `rejected`."),
});
const NAMES = () => ({ chat: _("Chat"), standard: _("Standard"), sft: "SFT", dpo: "DPO" });
const HOLDS = {
  messages: "`messages`",
  sharegpt: "`conversations`",
  text: "`text`",
  prompt_completion: "`prompt`, `completion`",
  alpaca: "`instruction`, `output`",
  preference: "`prompt`, `chosen`, `rejected`",
  preference_chat: "`prompt`, `chosen`, `rejected`",
  preference_sharegpt: "`conversations`, `chosen`, `rejected`",
};

const strategyNow = () => form.value("data.strategy") ?? known.dataset?.strategy ?? null;
const methodNow = () => form.value("training.method") ?? "sft";

/** Ask what the chosen dataset is. What it makes impossible is switched, and that is said. */
async function learnOfDataset() {
  const name = form.value("data.dataset");
  if (name === known.name) return;
  const before = strategyNow();
  known.name = name;
  for (const way of ["strategy", "method"]) $(`#${way}-switched`).hidden = true;
  if (typeof name !== "string") {
    known.dataset = null;
    return;
  }
  const told = await datasetOf(name).catch((error) => error); // the verdict says what is wrong
  if (known.name !== name) return;
  known.dataset = told.strategy ? told : null;
  if (known.dataset) switchForDataset(before, told);
  draw();
  if (told instanceof Failure && told.status !== 404) known.name = undefined; // asked for again with the next verdict
}

function switchForDataset(before, told) {
  const changes = {};
  if (before && before !== told.strategy) {
    if (form.value("data.strategy")) changes["data.strategy"] = undefined; // which is what the data is
    saySwitched("strategy", told);
  }
  if (methodNow() !== told.method) {
    changes["training.method"] = told.method === "sft" ? undefined : told.method;
    saySwitched("method", told);
  }
  form.set(changes);
}

function saySwitched(name, told) {
  const values = { choice: NAMES()[told[name]], fields: HOLDS[told.format] ?? told.format };
  sayAt(name, _("Switched to {choice}: this dataset has {fields}.", values));
}

function sayAt(name, text) {
  const place = $(`#${name}-switched`);
  put(place, icon("shift"), h("span", {}, coded(text)));
  place.hidden = false;
  tell(text.replaceAll("`", ""));
}

/** Without a dataset that decides it, a strategy that some selected model can't do gives way to the other one. */
function switchForModels() {
  const [found] = form.findings("data.strategy").filter((finding) => finding.rule === "chat-needs-a-template");
  if (!found || known.dataset || form.value("data.dataset") || form.value("data.strategy") !== "chat") return;
  sayAt("strategy", _("Switched to Standard: {problem}", { problem: found.problem }));
  form.set({ "data.strategy": "standard" });
}

function drawWay(name, now) {
  const told = known.dataset;
  for (const way of $$(`input[name=${name}]`)) {
    const impossible = Boolean(told) && way.value !== told[name] && way.value !== now;
    way.checked = way.value === now;
    way.setAttribute("aria-disabled", impossible);
    way.parentElement.classList.toggle("off", impossible);
    if (impossible) sayWhy(name, way.value, told);
  }
  $(`#${name}-why`).hidden = !told || now !== told[name];
  const fits = told && now === told[name];
  // a file may say what is no choice: the server says so, below
  const text = Object.hasOwn(MEANS(), now ?? "") ? MEANS()[now] : _("Follows the dataset, once one is chosen.");
  redraw($(`#${name}-note`), `${now} ${fits}`, () => [
    icon(fits ? "check" : "info", fits ? "good" : ""),
    h("span", {}, fits && `${_("Fits the dataset.")} `, coded(text)),
  ]);
}

function sayWhy(name, way, told) {
  const fields = HOLDS[told.format] ?? told.format;
  const text = _("{needs}; this dataset has {fields}.", { needs: NEEDS()[way], fields });
  const suits = { [name]: way };
  const convert = () => convertDataset(suits);
  const able = targets(told, suits).length > 0;
  redraw($(`#${name}-why`), [text, able], () => [
    icon("ban"),
    h(
      "span",
      {},
      coded(text),
      " ",
      able && [h("button", { class: "link", type: "button", onclick: convert }, _("Convert it")), " · "],
      h("a", { href: "#data" }, _("Choose another")),
    ),
  ]);
}
