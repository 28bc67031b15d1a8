// One prompt and the answers to it, side by side: each base model beside its adapter, or adapter beside adapter.
import { _, _n, copier, h, icon, mark, number, put } from "./ui.js";

/** An exchange before anybody has answered. asked: what POST …/generate takes; models: [{key, name, place}]. */
export const begun = (runId, title, asked, models) => ({
  runId,
  title,
  asked,
  models,
  at: Date.now(),
  answers: models.flatMap(({ key }) =>
    (asked.base ? ["base", "adapter"] : ["adapter"]).map((variant) => ({
      model: key,
      variant,
      state: "waiting",
      text: "",
    })),
  ),
});

/** Draw an exchange. `element`; `hear(line)` takes a line of the server in; `end(state)` says of whoever has not answered
 * yet that they won't, "stopped" or "failed". */
export function drawn(exchange) {
  const cells = exchange.answers.map((answer) => cell(exchange, answer));
  const element = h(
    "div",
    { class: "exchange" },
    h("p", { class: "question" }, exchange.asked.prompts[0]),
    h(
      "div",
      { class: exchange.asked.base ? "columns pairs-of" : "columns" },
      cells.map((each) => each.element),
    ),
  );
  const find = (line) => cells.find(({ answer }) => answer.model === line.model && answer.variant === line.variant);

  /** Whose turn it is, from 0. */
  const turn = () => exchange.answers.findIndex((answer) => ["waiting", "loading", "writing"].includes(answer.state));

  function hear(line) {
    const one = find(line);
    if (line.type === "token") one.grow(line.text);
    else one.finish(line);
    begin();
    return one.answer;
  }

  /** The next one loads its model now, which takes a while before its first word. */
  function begin() {
    const next = cells[turn()];
    if (next?.answer.state === "waiting") next.become("loading");
  }

  function end(state) {
    for (const each of cells) {
      if (["waiting", "loading"].includes(each.answer.state)) each.become("unasked");
      else if (each.answer.state === "writing") each.become(state);
    }
  }

  return { element, begin, hear, end, turn };
}

function cell(exchange, answer) {
  const { name, place } = exchange.models.find(({ key }) => key === answer.model);
  const base = answer.variant === "base";
  const text = document.createTextNode(answer.text);
  const quote = h("blockquote", {}, text);
  const foot = h("p", { class: "answer-foot" });
  const copy = copier(answer.text, _("Copy the answer of {name}", { name: spoken(name, base) }));
  const element = h(
    "article",
    { class: base ? "answer" : "answer tuned" },
    h(
      "header",
      {},
      h("h3", {}, mark(place), name, " ", h("small", { class: "muted" }, base ? _("base model") : _("tuned"))),
      copy,
    ),
    quote,
    foot,
  );
  become(answer.state);

  function become(state) {
    answer.state = state;
    element.dataset.state = state;
    put(foot, footing(answer));
    copy.hidden = !answer.text || state === "writing";
    copy.dataset.copy = answer.text;
  }

  function grow(piece) {
    answer.text += piece;
    text.appendData(piece);
    if (answer.state !== "writing") become("writing");
  }

  function finish(line) {
    Object.assign(answer, {
      text: line.text,
      tokens: line.tokens,
      rate: line.tokens_per_second,
      reason: line.finish_reason,
    });
    if (text.data !== line.text) text.data = line.text;
    if (!line.text.trim()) put(quote, h("span", { class: "muted" }, _("An empty answer.")));
    become("done");
  }

  return { element, answer, become, grow, finish };
}

/** A model's name with what of it answers, to be said. */
export const spoken = (name, base) => (base ? _("{name}, base model", { name }) : _("{name}, tuned", { name }));

function footing({ state, tokens, rate, reason }) {
  if (state === "waiting") return [icon("clock"), _("Waits for its turn")];
  if (state === "loading") return [icon("hour"), _("Gets ready")];
  if (state === "writing") return [h("span", { class: "pulse" }), _("Writes")];
  if (state === "stopped") return [icon("stop", "warn"), _("Stopped here")];
  if (state === "failed") return [icon("err", "bad"), _("Broken off here")];
  if (state === "unasked") return [icon("ban"), _("Did not answer")];
  return [
    icon(reason === "length" ? "warn" : "check", reason === "length" ? "warn" : "good"),
    _n(tokens, "{n} token", "{n} tokens"),
    rate ? ` · ${_("{n} tokens/s", { n: number(rate, rate < 10 ? 1 : 0) })}` : "",
    reason === "length" ? ` · ${_("cut off at the longest answer")}` : "",
  ];
}
