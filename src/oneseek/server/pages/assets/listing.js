// A run as a line of the table of all runs.
import { NONE, _, _n, day, duration, fully, h, mark, moment, number, put } from "./ui.js";
import { bars } from "./dna.js";
import { ahead, best, called, kind, outside, place, standing } from "./standing.js";

/** A line of the table, and how to bring it up to date: only cells that changed are drawn again. `picked`: whether it is
 * to be compared, `full`: whether no more can be, `waits`: its place in the queue, 0 is next. */
export function line(run) {
  const box = comparable(run) && h("input", { class: "check", type: "checkbox", value: run.run_id });
  const link = h("a", { href: `/runs/${encodeURIComponent(run.run_id)}` });
  const id = h("small", {}, h("code", {}, run.run_id));
  const cells = COLUMNS.map(({ style }) => h("td", { class: style, role: "cell" }));
  const drawn = [];
  const element = h(
    "tr",
    { role: "row" },
    h("td", { class: "c-pick", role: "cell" }, box && h("label", {}, box)),
    h("td", { class: "c-run", role: "rowheader" }, link, id),
    cells,
  );
  function update(now, { picked, full, waits }) {
    const name = title(now);
    if (link.textContent !== name) link.textContent = name;
    id.hidden = name === now.run_id;
    if (box) {
      box.checked = picked;
      box.ariaLabel = _("Compare {name}, {id}", { name, id: now.run_id });
      if (full && !picked) {
        box.setAttribute("aria-disabled", "true");
        box.setAttribute("aria-describedby", "picked-said");
      } else ["aria-disabled", "aria-describedby"].forEach((attribute) => box.removeAttribute(attribute));
    }
    COLUMNS.forEach(({ of, draw: drawCell }, at) => {
      const told = JSON.stringify(of(now, waits)) ?? "";
      if (drawn[at] === told) return;
      drawn[at] = told;
      put(cells[at], drawCell(now, waits));
    });
  }
  return { element, update };
}

/** Only what has settings that can be read can be compared. */
export const comparable = (run) => !["old", "damaged"].includes(kind(run));
const title = (run) => run.dataset?.name ?? run.old_name ?? run.run_id;

const COLUMNS = [
  {
    style: "c-st",
    of: (run, waits) => [run.status, run.engine, cause(run), note(run, waits)],
    draw: (run, waits) => [
      standing(run),
      cause(run) ? h("small", { lang: tongue(run), title: cause(run) }, cause(run)) : h("small", {}, note(run, waits)),
    ],
  },
  {
    style: "c-champ",
    of: (run) => [best(run), run.champion, run.display_names],
    draw: (run) => leading(run),
  },
  { style: "num c-bpb", of: (run) => figure(run), draw: (run) => measured(run) },
  { style: "c-models", of: (run) => [run.base_models, run.display_names], draw: (run) => cluster(run) },
  {
    style: "num c-data",
    of: (run) => run.dataset?.rows,
    draw: (run) => (run.dataset ? number(run.dataset.rows) : dash()),
  },
  {
    style: "num c-ep",
    of: (run) => [run.current_epoch, run.total_epochs],
    draw: (run) =>
      run.total_epochs == null
        ? dash()
        : _("{n} of {total}", { n: number(run.current_epoch), total: number(run.total_epochs) }),
  },
  {
    style: "num c-time nowrap",
    of: (run) => duration(run.seconds),
    draw: (run) => (run.seconds == null ? dash() : duration(run.seconds)),
  },
  { style: "c-dna", of: (run) => run.dna, draw: (run) => (run.dna ? bars(run.dna, true) : dash()) },
  {
    style: "c-when nowrap muted",
    of: (run) => run.created_at,
    draw: (run) => h("span", { title: fully(run.created_at) }, since(run.created_at)),
  },
];

const dash = () => h("span", { class: "muted" }, NONE);

/** What is worth knowing beside the status. */
function note(run, waits) {
  const left = secondsLeft(run);
  if (kind(run) === "old" && !run.problem) return _("Can’t be verified");
  if (outside(run)) return _("Trained elsewhere");
  if (waits != null) return waits ? _("Place {n} in the queue", { n: number(waits + 1) }) : _("Next in the queue");
  if (left != null) return _("about {time} left", { time: duration(left) });
  if (run.status === "interrupted") return _("Can be resumed");
  const gone = Object.keys(run.failed_models ?? {}).length;
  return gone ? _n(gone, "{n} model quarantined", "{n} models quarantined") : "";
}

/** What went wrong with a run, in the server's words. */
const cause = (run) =>
  run.problem ?? (run.status === "failed" ? (run.failure?.problem ?? Object.values(run.failed_models ?? {})[0]) : null);

/** Their language, where it is not the page's. */
const tongue = (run) => (run.problem == null && run.failure ? run.failure.language : run.language);

/** Seconds until a run is done, by what it took so far, in whole minutes; null before its first epoch, since until then
 * it was made ready most of the time. */
function secondsLeft(run) {
  if (run.status !== "training" || outside(run) || !run.current_epoch || !run.seconds) return null;
  if (run.progress_percent >= 100) return null; // what was trained is being verified
  return 60 * Math.ceil((run.seconds * (100 / run.progress_percent - 1)) / 60);
}

function leading(run) {
  const key = best(run);
  if (!key) return dash();
  return h(
    "span",
    { class: "who1" },
    mark(place(run, key)),
    h("span", {}, called(run, key), !run.champion && h("small", {}, ahead(run))),
  );
}

/** The number that a run is ranked by, and what it is. */
function figure(run) {
  const loss = run.rank_by === "val_loss" || run.bits_per_byte == null;
  return loss ? [run.val_loss, "val_loss"] : [run.bits_per_byte, "bits_per_byte"];
}

function measured(run) {
  const [value, metric] = figure(run);
  if (value == null) return dash();
  return [h("b", {}, number(value, 3)), metric === "val_loss" && h("small", {}, _("validation loss"))];
}

function cluster(run) {
  const keys = run.base_models ?? [];
  if (!keys.length) return dash();
  const names = keys.map((key) => called(run, key)).join(", ");
  return h(
    "span",
    {
      class: "cluster",
      role: "img",
      title: names,
      "aria-label": _n(keys.length, "{n} model: {names}", "{n} models: {names}", { names }),
    },
    keys.map((_key, place) => mark(place)),
  );
}

/** A time as the server has it, only its day where that is of another year; what the old system wrote may be no time. */
function since(value) {
  const time = new Date(value || NaN);
  if (Number.isNaN(time.getTime())) return value || NONE;
  return time.getFullYear() === new Date().getFullYear() ? moment(value) : day(value);
}
