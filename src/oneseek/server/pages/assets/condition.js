// The condition of a base model: whether it can be used, what it lacks, and what to do about it.
import { _, badge, bytes, coded, failure, h, icon } from "./ui.js";

const LACKING = ["no-config", "no-weights", "missing-shard", "no-tokenizer"]; // what a download adds
const ADDRESS = /(https?:\/\/[^\s,;)]+[^\s,;).])/;

/** Whether it is here and can be used, as a badge. */
export function standing(model) {
  if (partly(model)) {
    const missing = model.missing_bytes;
    return badge("warn", "down", missing ? _("{size} missing", { size: bytes(missing) }) : _("Partly here"));
  }
  if (pickled(model)) return badge("warn", "warn", _("Pickle only"));
  if (!model.usable) return badge("bad", "err", _("Can’t be used"));
  if (model.source === "hub") return badge("", "down", _("{size} to download", { size: bytes(model.missing_bytes) }));
  return badge("good", "check", model.source === "cache" ? _("Cached") : _("In the models folder"));
}

/** Whether it chats, as a badge. */
export const template = (model) =>
  model.has_chat_template ? badge("", "chat", _("Chat")) : badge("", "ban", _("No chat template"));

/** Whether it has one of these kinds of problems. */
export const has = (model, kinds) => model.problems.some((problem) => kinds.includes(problem.kind));
/** Whether a part of it is here, and whether its weights are there only as a pickle. */
export const partly = (model) => model.source === "cache" && (model.missing_bytes > 0 || has(model, LACKING));
export const pickled = (model) => model.source !== "hub" && has(model, ["only-pickle"]);

/** What is wrong with it, each with the fix. */
export function notes(model) {
  return h(
    "ul",
    {},
    model.problems.map((problem) =>
      h(
        "li",
        {},
        icon("err", "bad"),
        h("p", { lang: problem.language }, problem.problem, " ", h("span", { class: "muted" }, linked(problem.fix))),
      ),
    ),
    model.shadows.map((path) =>
      h(
        "li",
        {},
        icon("info"),
        h(
          "p",
          { class: "muted" },
          _("A copy in the cache is passed over, since this one has its name: {path}", { path }),
        ),
      ),
    ),
  );
}

/** Why the hub gives nothing of a model, "org/name": where it lets in only who has accepted a licence, the way in, of
 * which `again` is the last step. */
export function refused(error, name, again) {
  const licence = address(error.fix);
  if (!licence || !error.fix.includes("HF_TOKEN")) return failure(error);
  const status = / \(status \d+\)/;
  const sure = new RegExp(`${status.source}\\.$`).test(error.message); // else it may as well be mistyped
  const account = _(
    "On the server, type `hf auth login` with a token of your account, or set HF_TOKEN and start OneSeek again.",
  );
  return h(
    "article",
    { class: "gated" },
    h("div", { class: "row" }, h("h3", {}, name), badge("warn", "lock", sure ? _("Gated") : _("Not shown"))),
    h("p", { lang: error.language }, error.message.replace(status, "")),
    h(
      "ol",
      { class: "steps" },
      h(
        "li",
        {},
        sure ? _("Accept its licence:") : _("If the model asks for it, accept its licence:"),
        " ",
        linked(licence),
      ),
      h("li", {}, coded(account)),
      h("li", {}, h("button", { class: "link", type: "button", onclick: again }, _("Look it up again"))),
    ),
  );
}

/** A text whose addresses can be followed. */
export function linked(text) {
  return text
    .split(ADDRESS)
    .map((part, place) =>
      place % 2 ? h("a", { href: part, rel: "noreferrer noopener", target: "_blank" }, part) : part,
    );
}

/** The first address in a text; undefined where there is none. */
const address = (text) => text.match(ADDRESS)?.[0];
