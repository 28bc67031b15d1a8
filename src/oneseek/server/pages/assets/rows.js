// The rows of a dataset: those that can't be used, and the first ones, with what is learned from each.
import { _, _n, badge, h, icon, language, number, put, reached } from "./ui.js";

/** The rule that finds rows which can't be used: they are shown by themselves, so its finding is not. */
export const BAD_ROWS = "dataset-rows-are-good";

const LONGEST = 1500; // characters of a turn that are shown at once
const AROUND = 90; // characters of a bad row on each side of what is wrong
const READ = 2 << 20; // bytes of a file that are read to show its bad rows

// -- rows that can't be used -----------------------------------------------------------------------------------------

/** The bad rows of a dataset, with a switch that sets them aside: `aside` says whether they are, `setAside(boolean)` is
 * called by the switch. Without `setAside` there is no switch. */
export function problems(dataset, { aside = false, setAside } = {}) {
  const bad = badRows(dataset);
  if (!bad) return null;
  const solved = setAside && aside;
  const headline = solved
    ? _n(bad, "{n} row is set aside, {rows} are trained on", "{n} rows are set aside, {rows} are trained on", {
        rows: number(dataset.rows),
      })
    : _n(bad, "{n} row can’t be used", "{n} rows can’t be used");
  const list = h(
    "ol",
    { tabindex: 0, "aria-label": _("Rows that can’t be used") },
    dataset.bad_rows.map((each) => group(each, dataset)),
  );
  const box = h(
    "div",
    { class: `problems ${solved ? "solved" : ""}`.trim() },
    h(
      "header",
      {},
      solved ? icon("check", "good") : icon("err", "bad"),
      h("b", {}, headline),
      setAside &&
        h(
          "label",
          {},
          h("input", {
            class: "switch",
            role: "switch",
            type: "checkbox",
            id: "set-aside",
            checked: aside,
            onchange: (event) => setAside(event.target.checked),
          }),
          h("span", {}, _("Set them aside in"), " ", h("code", {}, "quarantine.jsonl")),
        ),
    ),
    list,
  );
  showRows(dataset, list);
  return box;
}

/** Parquet has no lines. */
const placeOf = (line, { container }) =>
  container === "parquet" ? _("row {n}", { n: number(line) }) : _("line {line}", { line: number(line) });

/** How many rows of a dataset can't be used. */
export const badRows = (dataset) => dataset.bad_rows.reduce((sum, { count }) => sum + count, 0);

function group({ kind, count, examples }, dataset) {
  const more = count - examples.length;
  return [
    examples.map(({ line, reason }) =>
      h(
        "li",
        { "data-line": line, "data-kind": kind },
        h("span", { class: "line" }, placeOf(line, dataset)),
        h("span", {}, spoken(kind, reason)),
      ),
    ),
    more > 0 &&
      h(
        "li",
        {},
        h("span", { class: "line" }, `+ ${number(more)}`),
        h("span", { class: "muted" }, _n(more, "{n} more of this kind", "{n} more of this kind")),
      ),
  ];
}

/** Reasons are kept with the dataset, in English: in another language the kind of the problem says it too. */
const spoken = (kind, reason) =>
  language === "en" ? sentence(reason) : [KINDS()[kind] ?? kind, ": ", h("span", { lang: "en" }, reason)];

const KINDS = () => ({
  "broken-json": _("Broken JSON"),
  "broken-csv": _("Broken CSV"),
  "not-utf8": _("Not UTF-8"),
  "nul-byte": _("A NUL byte"),
  "line-too-long": _("The line is too long"),
  "nested-too-deeply": _("Nested too deeply"),
  surrogate: _("Half a character"),
  "no-known-format": _("No known format"),
  "other-format": _("Another format than the other rows"),
  "missing-field": _("A field is missing"),
  "wrong-type": _("A field of the wrong type"),
  "empty-content": _("Empty content"),
  "unknown-role": _("Unknown role"),
  "roles-out-of-order": _("Roles out of order"),
  "no-assistant-turn": _("Nobody answers"),
  "unsupported-content": _("Content that is no text"),
  "same-answers": _("Both answers are the same"),
});

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;

/** Show each bad row's own text, as far as it stands in the first part of a file of lines. */
async function showRows(dataset, list) {
  const items = new Map([...list.querySelectorAll("[data-line]")].map((item) => [Number(item.dataset.line), item]));
  if (dataset.container !== "jsonl") return;
  const texts = await linesOf(dataset, new Set(items.keys())).catch(() => new Map()); // the reasons are there already
  for (const [line, text] of texts) items.get(line).append(shown(text, items.get(line)));
}

async function linesOf(dataset, wanted) {
  const found = new Map();
  const answer = await reached(`/api/datasets/${dataset.sha256}/content`, {
    headers: { Range: `bytes=0-${READ - 1}` },
  });
  const lines = (await answer.text()).split("\n");
  if (dataset.size_bytes > READ) lines.pop(); // the last one may be half a line
  for (const line of wanted) if (lines[line - 1] !== undefined) found.set(line, lines[line - 1]);
  return found;
}

/** A row's text around what is wrong with it, which is marked where that is a piece of the text. */
function shown(text, item) {
  const wrong = { "empty-content": '""', "broken-json": "" }[item.dataset.kind] ?? quoted(item);
  const at = item.dataset.kind === "broken-json" ? text.length : wrong ? text.indexOf(wrong) : -1;
  const place = at < 0 ? 0 : at;
  const end = at < 0 ? 2 * AROUND : place + wrong.length + AROUND;
  const start = at < 0 ? 0 : Math.max(0, place - AROUND);
  return h(
    "code",
    { lang: "" },
    start > 0 && "…",
    text.slice(start, place),
    at >= 0 && h("mark", {}, wrong || "⏎"),
    text.slice(place + (at < 0 ? 0 : wrong.length), end),
    end < text.length && "…",
  );
}

/** The value that a reason names, as JSON has it: … has the unknown role 'bot'. */
function quoted(item) {
  const [, value] =
    item.dataset.kind === "unknown-role" ? (item.textContent.match(/['”"’]([^'”"’]+)['”"’]/) ?? []) : [];
  return value ? `"${value}"` : "";
}

// -- first examples --------------------------------------------------------------------------------------------------

/** The first rows of a dataset (of GET …/preview), each to be opened; the first one is open. A bar marks what is
 * learned. */
export const examples = (rows, dataset) =>
  rows.map(({ line, row, problem }, place) => {
    const told = problem || row === null ? [] : TURNS[dataset.format](row); // what has a problem may be of any shape
    return h(
      "details",
      { class: "example", open: place === 0 },
      h(
        "summary",
        {},
        icon("chev"),
        h("span", { lang: "" }, row === null ? "…" : summary(row, told)),
        problem && badge("bad", "err", _("Can’t be used")),
        h("span", { class: "muted nowrap" }, placeOf(line, dataset)),
      ),
      problem && h("p", { class: "msg" }, icon("err", "bad"), h("span", { lang: "en" }, sentence(problem))),
      told.length
        ? h("dl", { class: "turns" }, told.map(turn))
        : row !== null && h("pre", { tabindex: 0 }, JSON.stringify(row, null, 2)),
    );
  });

/** A turn of a row: `said` by `who`; `learned` as it is, or as what is not to be said ("not"). */
function turn([who, said, learned]) {
  const text = plain(said);
  const body = h(
    "dd",
    { class: learned === "not" ? "sup not" : learned ? "sup" : null, lang: "" },
    text.slice(0, LONGEST),
  );
  if (text.length > LONGEST) {
    const all = h(
      "button",
      { class: "link", type: "button", onclick: () => put(body, text) },
      _("Show all {n} characters", { n: number(text.length) }),
    );
    body.append("… ", all);
  }
  return [h("dt", {}, who), body];
}

const plain = (value) => (typeof value === "string" ? value : value == null ? "" : JSON.stringify(value));

/** What the row begins with, for who looks for one. */
function summary(row, turns) {
  const [, said] = turns.find(([who]) => !["system", "tools"].includes(who)) ?? ["", row];
  return plain(said).slice(0, 200);
}

const ROLES = { human: "user", gpt: "assistant", observation: "tool", function_call: "assistant" };
const role = (turn) => ROLES[turn?.from] ?? turn?.role ?? turn?.from ?? "?";

const said = (message) => {
  const text = plain(message?.content ?? message?.value);
  return message?.tool_calls ? `${text} ${JSON.stringify(message.tool_calls)}`.trim() : text;
};

const turnsOf = (messages) =>
  list(messages).map((message) => [role(message), said(message), role(message) === "assistant"]);
const asked = (messages) => turnsOf(messages).map(([who, text]) => [who, text]);
const list = (value) => (Array.isArray(value) ? value : value == null ? [] : [value]);
const given = (row, field) => (row[field] ? [[field, row[field]]] : []);

/** Of each format the turns of a row, as [who, what, learned]. */
const TURNS = {
  messages: (row) => [...given(row, "tools"), ...turnsOf(row.messages)],
  sharegpt: (row) => [...given(row, "tools"), ...given(row, "system"), ...turnsOf(row.conversations)],
  text: (row) => [["text", row.text, true]],
  prompt_completion: (row) => [
    ["prompt", row.prompt],
    ["completion", row.completion, true],
  ],
  alpaca: (row) => [
    ...given(row, "system"),
    ...list(row.history).flatMap(([question, answer]) => [
      ["instruction", question],
      ["output", answer],
    ]),
    ...given(row, "instruction"),
    ...given(row, "input"),
    ["output", row.output, true],
  ],
  preference: (row) => [...given(row, "prompt"), ["chosen", row.chosen, true], ["rejected", row.rejected, "not"]],
  preference_chat: (row) => pair(row, list(row.prompt && typeof row.prompt !== "string" ? row.prompt : shared(row))),
  preference_sharegpt: (row) => pair(row, [...list(row.conversations)]),
};

/** A prompt that is a chat, and the two answers to it. */
function pair(row, prompt) {
  const rest = (answer) => {
    const messages = list(answer);
    return messages.length > prompt.length && alike(messages, prompt) ? messages.slice(prompt.length) : messages;
  };
  const answers = (field, learned) => rest(row[field]).map((message) => [field, said(message), learned]);
  return [
    ...given(row, "tools"),
    ...given(row, "system"),
    ...asked(prompt),
    ...answers("chosen", true),
    ...answers("rejected", "not"),
  ];
}

/** Where there is no prompt, it is what both answers begin with. */
function shared({ chosen, rejected }) {
  const [one, other] = [list(chosen), list(rejected)];
  const end = one.findIndex((message, place) => JSON.stringify(message) !== JSON.stringify(other[place]));
  return end < 0 ? [] : one.slice(0, end);
}

const alike = (messages, prompt) =>
  prompt.every((message, place) => JSON.stringify(message) === JSON.stringify(messages[place]));
