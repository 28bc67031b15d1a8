// The leaderboard: one row per model, kept and changed in place; a row that changes rank glides to its new one.
import { columns, whoCell } from "./columns.js";
import { gone, ranking } from "./course.js";
import { withProblem } from "./log.js";
import { _, _n, h, icon, number, put, redraw, series } from "./ui.js";

/** A leaderboard in a <table>. over(place): the row of a model is under the pointer, null: none is. */
export function board(table, { config, display, over }) {
  const rows = new Map();
  const body = h("tbody", { role: "rowgroup" });
  let known = "";
  let order = "";

  /** Bring it up to date; `glide`: whether rows may move visibly. */
  return function draw(course, glide) {
    const shown = columns(course, display);
    const wanted = shown.map((column) => column.name).join(" ");
    if (wanted !== known) {
      known = wanted;
      rows.clear();
      put(body);
      put(table, head(shown, config), body);
      order = "";
    }
    const ranks = ranking(course);
    const facts = factsOf(course, ranks, config);
    const drawn = ranks.map((rank, at) => {
      const kind = gone(rank.model) ? "out" : "in";
      let row = rows.get(rank.model.key);
      if (row?.kind !== kind) {
        const made = kind === "out" ? outRow(rank.model, shown.length) : inRow(rank.model, shown);
        made.element.addEventListener("pointerenter", () => over(rank.model.place));
        made.element.addEventListener("pointerleave", () => over(null));
        tabular(made.element);
        row?.element.replaceWith(made.element);
        row = { ...made, kind };
        rows.set(rank.model.key, row);
      }
      row.update({ ...facts, ...rank, rank: at + 1 });
      return row.element;
    });
    const wantedOrder = ranks.map((rank) => rank.model.key).join(" ");
    if (wantedOrder === order && drawn.every((row) => row.parentNode === body)) return;
    const first = order === "";
    order = wantedOrder;
    if (first || !glide) body.append(...drawn);
    else rerank(body, drawn);
  };
}

/** Keep its meaning for a row that is shown as a grid on small screens. */
function tabular(row) {
  row.setAttribute("role", "row");
  for (const cell of row.children) cell.role ??= "cell";
}

/** What rows are compared with. */
function factsOf(course, ranks, config) {
  const [best, second] = ranks.filter((rank) => !gone(rank.model) && rank.value != null);
  const weights = course.models.map((model) => model.weight);
  const rule = config?.adaptive_weights;
  return {
    course,
    best,
    second,
    low: Math.min(rule?.min_multiplier ?? 0.5, ...weights),
    high: Math.max(rule?.max_multiplier ?? 1.5, ...weights),
    live: ranks.filter((rank) => !gone(rank.model)).length,
  };
}

function rerank(body, order) {
  const before = new Map(order.map((row) => [row, row.getBoundingClientRect().top]));
  body.append(...order);
  const time = parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--move")); // 0: motion is reduced
  for (const row of order) {
    const shift = before.get(row) - row.getBoundingClientRect().top;
    if (!shift || !time) continue;
    const path = [{ transform: `translateY(${shift}px)` }, { transform: "none" }];
    row.animate(path, { duration: time, easing: "cubic-bezier(.2,.8,.2,1)" });
  }
}

// -- rows -----------------------------------------------------------------------------------------------------------

function inRow(model, shown) {
  const cells = shown.map((column) => column.make(model));
  const element = h(
    "tr",
    { class: series(model.place) },
    cells.map((cell) => cell.element),
  );
  return {
    element,
    update: (facts) => {
      for (const cell of cells) cell.update(facts);
    },
  };
}

function outRow(model, wide) {
  const problem = h("b");
  const rest = h("p", { class: "cause muted" });
  const element = h(
    "tr",
    { class: `out ${series(model.place)}` },
    h("td", {}, h("span", { class: "medal-x" }, icon("ban", "bad"), h("span", { class: "vh" }, _("Quarantined")))),
    whoCell(model).element,
    h("td", { class: "c-cause", colspan: wide - 3 }, h("p", { class: "cause" }, problem), rest),
    h("td", { class: "c-status" }, h("span", { class: "badge bad" }, icon("ban"), _("quarantined"))),
  );
  return { element, update: ({ course, live }) => said(model, course, live, problem, rest) };
}

function said(model, course, live, problem, rest) {
  const out = gone(model);
  const text = out.epoch
    ? _("Quarantined in epoch {n}: {problem}", { n: number(out.epoch) })
    : _("Not prepared: {problem}");
  redraw(problem, [text, out.problem], () => withProblem(text, out.problem, out.language));
  const others =
    !["training", "stopping"].includes(course.status) || course.outside
      ? ""
      : live
        ? _n(live, "The other model goes on.", "The other {n} models go on.")
        : _("No model is left.");
  redraw(rest, [others, out.fix], () => [others, " ", out.fix && h("span", { lang: out.language }, out.fix)]);
}

const head = (shown, config) =>
  h(
    "thead",
    { role: "rowgroup" },
    h(
      "tr",
      { role: "row" },
      shown.map((column) => h("th", { role: "columnheader", scope: "col", class: column.class }, column.head(config))),
    ),
  );
