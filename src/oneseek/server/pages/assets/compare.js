// Two or more runs beside each other: one chart, what came out, and which settings differ. A run has the marker of its
// place in the comparison, in the chart and in every table.

import { $, NONE, _, _n, by, clock, day, duration, failure, get, h, icon, language, mark, number, put } from "./ui.js";
import { chart } from "./charts.js";
import { parts } from "./dna.js";
import { differing, rare, written } from "./marked.js";
import { ahead, best, called, flat, rankedBy, standing } from "./standing.js";

const known = new Map(); // what was told of a run, by its id
let latest = 0;
let every = false; // whether the curves of all models are shown, or the champions' only
let shown = null;

/** Compare runs, as GET /api/runs lists them, within an element; again when something of them has changed.
 * missing: ids that were asked for and are not there. */
export async function compare(box, runs, missing) {
  const key = JSON.stringify([runs.map(stamp), missing]);
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  const turn = ++latest;
  if (!box.firstChild) put(box, h("p", { class: "muted reading" }, _("Reading the runs …")));
  try {
    const told = await Promise.all(runs.map(ask));
    if (turn === latest) draw(box, told, missing);
  } catch (error) {
    if (turn !== latest) return;
    shown = null;
    const again = () => {
      delete box.dataset.key;
      put(box);
      return compare(box, runs, missing);
    };
    put(
      box,
      failure(error),
      h("p", { class: "row after" }, h("button", { class: "btn", type: "button", onclick: again }, _("Try again"))),
    );
  }
}

const stamp = (run) => [run.run_id, run.status, run.current_epoch, run.dna].join(" ");

/** A run with its settings and its curves. Asked for again only when the run has gone on. */
async function ask(run) {
  const now = stamp(run);
  const had = known.get(run.run_id);
  if (had?.stamp === now) return had.told;
  const id = encodeURIComponent(run.run_id);
  const [detail, metrics] = await Promise.all([get(`/api/runs/${id}`), get(`/api/training/${id}/metrics`)]);
  const told = {
    ...run,
    ...detail,
    history: metrics.training_history,
    settings: new Map(flat(detail.config)),
  };
  known.set(run.run_id, { stamp: now, told });
  return told;
}

// -- drawn ----------------------------------------------------------------------------------------------------------

function draw(box, runs, missing) {
  const ids = runs.map((run) => run.run_id).join();
  if (shown?.ids !== ids) {
    shown = begun(ids);
    put(box, shown.caveats, h("div", { class: runs.length > 3 ? "vs many" : "vs" }, shown.parts));
  }
  const names = labels(runs);
  const doubts = caveats(runs, names);
  const gone = missing.map((id) => _("{id} is not here, or can’t be compared.", { id }));
  put(
    shown.caveats,
    [...gone, ...doubts].map((text) => h("li", {}, icon("info"), h("span", {}, text))),
  );
  shown.caveats.hidden = !gone.length && !doubts.length;
  shown.curves = () => curves(shown.figure, runs, names, doubts);
  shown.curves();
  put(shown.results, results(runs, names));
  differences(shown, runs, names);
}

function begun(ids) {
  const figure = h("figure", {});
  const outcome = scrolled(_("Results"));
  const differing = scrolled(_("Settings that differ"));
  const amount = h("span", { class: "muted" });
  const same = h("details", { class: "same" }, h("summary", {}, icon("chev"), h("span", {})), h("ul", {}));
  return {
    ids,
    figure,
    amount,
    same,
    results: outcome,
    differing,
    caveats: h("ul", { class: "caveats" }),
    parts: [
      figure,
      h("div", { class: "results" }, h("header", { class: "over-head" }, h("h3", {}, _("Results"))), outcome),
      h(
        "div",
        { class: "differs" },
        h("header", { class: "over-head" }, h("h3", {}, _("What differs")), amount),
        differing,
        same,
      ),
    ],
  };
}

const scrolled = (label) => h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label });

/** A name for each run that tells them apart: its day, with the time where that is needed, or its id. */
function labels(runs) {
  const forms = [
    day,
    (time) => `${day(time)} ${clock(time, { seconds: false })}`,
    (time) => `${day(time)} ${clock(time)}`,
  ];
  for (const form of forms) {
    const found = runs.map((run) => form(run.created_at));
    if (new Set(found).size === found.length) return found;
  }
  return runs.map((run) => run.run_id);
}

// -- the chart ------------------------------------------------------------------------------------------------------

function curves(figure, runs, names, doubts) {
  const metric = common(runs);
  const lines = runs.flatMap((run, place) => {
    const keys = run.base_models.filter((key) => every || key === best(run));
    return keys.map((key) => ({ key, run, name: names[place], own: key === best(run) ? place : null }));
  });
  let next = runs.length; // the champions keep the markers of their runs
  const series = lines.map(({ key, run, name, own }) => ({
    place: own ?? next++,
    name: `${name} · ${called(run, key)}`,
    points: run.history
      .map((epoch) => [epoch.epoch, by(measured(epoch, metric), key)])
      .filter(([, value]) => value != null),
    dead: by(run.failed_models, key),
  }));
  chart(figure, {
    title: metric === "bits_per_byte" ? _("Bits per byte") : _("Validation loss"),
    note: doubts.length ? _("lower is better") : (lead(runs, names, metric) ?? _("lower is better")),
    x: { label: _("Epoch"), from: 1, to: Math.max(2, ...runs.map((run) => run.history.at(-1)?.epoch ?? 0)) },
    series: series.sort((one, other) => one.place - other.place),
    digits: 3,
    better: "lower",
    level: 3,
    controls: choice(),
    empty: _("None of them has finished an epoch yet."),
  });
}

/** What all are drawn by: what they are ranked by, or the one that each of them has. */
function common(runs) {
  const [first, ...others] = runs.map(rankedBy);
  if (others.every((other) => other === first)) return first;
  const all = (metric) =>
    runs.every((run) =>
      run.history.some((epoch) => Object.values(measured(epoch, metric)).some((value) => value != null)),
    );
  return all("bits_per_byte") ? "bits_per_byte" : "val_loss";
}

/** What an epoch's models were worth by "bits_per_byte" or "val_loss", by their keys. */
const measured = (epoch, metric) => (metric === "val_loss" ? epoch.val_losses : epoch.bits_per_byte) ?? {};

/** Who is ahead and by how much, where that can be said. */
function lead(runs, names, metric) {
  const field = metric === "bits_per_byte" ? "bits_per_byte" : "val_loss";
  const found = runs.map((run, place) => [run[field], names[place]]).filter(([value]) => value != null);
  if (found.length < 2) return null;
  const [[first, name], [second]] = found.sort(([one], [other]) => one - other);
  return first === second ? _("level") : _("{run} leads by {n}", { run: name, n: number(second - first, 3) });
}

function choice() {
  const one = (value, label) =>
    h("label", {}, h("input", { type: "radio", name: "curves", value, checked: (value === "all") === every }), label);
  return h(
    "fieldset",
    {
      class: "seg small",
      onchange: (event) => {
        every = event.target.value === "all";
        shown.curves();
      },
    },
    h("legend", { class: "vh" }, _("Curves of")),
    one("champions", _("Champions")),
    one("all", _("All models")),
  );
}

// -- whether they can be compared -----------------------------------------------------------------------------------

/** Why curves can't be compared by eye; nothing where they can. */
function caveats(runs, names) {
  const told = [];
  const differ = (of) => new Set(runs.map((run) => JSON.stringify(of(run)))).size > 1;
  const unknown = runs.flatMap((run, place) => (run.dataset ? [] : [names[place]]));
  if (unknown.length) {
    told.push(
      _("What {runs} learned from is not known here: the curves can’t be compared by eye.", {
        runs: new Intl.ListFormat(language).format(unknown),
      }),
    );
  } else if (differ(measuredOn)) {
    told.push(
      differ((run) => run.dataset.sha256)
        ? _(
            "They were measured on different datasets: the curves can’t be compared by eye, only how each of them falls.",
          )
        : _("They were measured on different rows of the same dataset: the curves can’t be compared by eye."),
    );
  }
  if (differ((run) => run.rank_by)) {
    told.push(_("They are ranked by different metrics: one that all of them have is shown."));
  }
  if (differ((run) => run.config?.training?.method)) {
    told.push(_("One learns from answers, another from preferences: their losses are not the same thing."));
  }
  if (common(runs) === "val_loss" && differ(best)) {
    told.push(_("Validation loss counts by token, and each base model cuts text into other tokens."));
  }
  return told;
}

/** Which rows a run's validation figures are from. */
function measuredOn({ dataset, config }) {
  const data = config?.data ?? {};
  if (data.validation_dataset) return data.validation_dataset;
  return [dataset.sha256, data.validation_split, config?.training?.seed];
}

// -- what came out --------------------------------------------------------------------------------------------------

function results(runs, names) {
  const row = (label, of) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, label),
      runs.map((run, place) => h("td", {}, of(run, place) ?? NONE)),
    );
  const has = (field) => runs.some((run) => run[field] != null);
  const entryOf = (run) => run.leaderboard?.find(({ model }) => model === best(run));
  return table(runs, names, h("span", { class: "vh" }, _("Result")), [
    row(_("Status"), (run) => standing(run)),
    row(_("Champion"), (run) => best(run) && [called(run, best(run)), !run.champion && h("small", {}, ahead(run))]),
    has("bits_per_byte") && row(_("Bits per byte"), (run) => h("b", {}, number(run.bits_per_byte, 3))),
    has("val_loss") && row(_("Validation loss"), (run) => number(run.val_loss, 3)),
    row(_("Best epoch"), (run) => number(entryOf(run)?.best_epoch)),
    row(_("Epochs"), (run) => _("{n} of {total}", { n: number(run.current_epoch), total: number(run.total_epochs) })),
    row(_("Time"), (run) => duration(run.seconds)),
    row(_("Dataset"), dataset(runs, names)),
    row(_("Rows"), differing(runs.map((run) => (run.dataset ? number(run.dataset.rows) : undefined)))),
    row(_("Base models"), selected(runs)),
    runs.some((run) => run.dna) && [
      row(
        _("DNA: data"),
        part(runs, names, 0, (run) => _("same data as {run}", { run })),
      ),
      row(
        _("DNA: recipe"),
        part(runs, names, 1, (run) => _("same recipe as {run}", { run })),
      ),
      row(
        _("DNA: weights"),
        part(runs, names, 2, (run) => _("same weights as {run}", { run })),
      ),
    ],
  ]);
}

function table(runs, names, first, lines) {
  return h(
    "table",
    { class: "table diff" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("th", { scope: "col" }, first),
        runs.map((run, place) =>
          h(
            "th",
            { scope: "col" },
            h(
              "a",
              { class: "who1", href: `/runs/${encodeURIComponent(run.run_id)}`, title: run.run_id },
              mark(place),
              names[place],
            ),
          ),
        ),
      ),
    ),
    h("tbody", {}, ...lines.flat().filter(Boolean)),
  );
}

/** The base models of each run, a line each. */
function selected(runs) {
  const lists = runs.map((run) => run.base_models);
  const line = (run, key) => h("li", {}, rare(lists, key, called(run, key)));
  return (run) =>
    h(
      "ul",
      {},
      run.base_models.map((key) => line(run, key)),
    );
}

/** The name of each run's dataset; said where another name holds the same bytes. */
function dataset(runs, names) {
  const named = differing(runs.map((run) => run.dataset?.name));
  const [found, same] = [runs.map((run) => run.dataset?.sha256), (run) => _("same data as {run}", { run })];
  return (run, place) => {
    const first = found.indexOf(found[place]);
    const renamed = run.dataset && runs[first].dataset.name !== run.dataset.name;
    return [named(run, place), renamed && also(same(names[first]))];
  };
}

/** A part of the DNA, from 0, with the first run that has the same. */
function part(runs, names, at, same) {
  const found = runs.map((run) => parts(run.dna)[at]);
  return (_run, place) => {
    const own = found[place];
    const first = found.indexOf(own);
    const odd = found.lastIndexOf(own) === first && found.some((other) => other && other !== own);
    return own && [h("code", {}, odd ? h("mark", {}, own) : own), first < place && also(same(names[first]))];
  };
}

const also = (text) => h("small", {}, icon("check", "good"), text);

// -- settings -------------------------------------------------------------------------------------------------------

function differences({ amount, differing: box, same }, runs, names) {
  const fields = [...new Set(runs.flatMap((run) => [...run.settings.keys()]))];
  const values = (field) => runs.map((run) => run.settings.get(field));
  const differ = fields.filter((field) => new Set(values(field).map((value) => JSON.stringify(value))).size > 1);
  const alike = fields.filter((field) => !differ.includes(field));
  amount.textContent = fields.length
    ? _("{n} of {total} settings", { n: number(differ.length), total: number(fields.length) })
    : "";
  const line = (field) => {
    const told = differing(values(field));
    return h(
      "tr",
      {},
      h("th", { scope: "row", class: "mono" }, broken(field)),
      runs.map((run, place) => h("td", { class: "mono" }, told(run, place))),
    );
  };
  put(
    box,
    differ.length
      ? table(runs, names, _("Setting"), differ.map(line))
      : h("p", { class: "muted" }, fields.length ? _("No setting differs.") : _("No settings are known of them.")),
  );
  same.hidden = !alike.length;
  $("summary span", same).textContent = _n(alike.length, "{n} setting is the same", "{n} settings are the same");
  put(
    $("ul", same),
    alike.map((field) => h("li", {}, h("code", {}, field), " ", h("span", {}, written(values(field)[0])))),
  );
}

/** A dotted name that may be broken behind its points. */
const broken = (field) => field.split(".").flatMap((word, at) => (at ? [".", h("wbr"), word] : [word]));
