// What a run leaves behind: who won and by what, its certificate, sample answers, the curve, weights and files.
import {
  $,
  LONG,
  _,
  _n,
  by,
  bytes,
  failed,
  failure,
  get,
  h,
  icon,
  mark,
  number,
  part,
  percent,
  post,
  put,
  series,
  svg,
} from "./ui.js";
import { certificate, seal } from "./certificate.js";
import { OVER, called, outside, place, rankedBy } from "./standing.js";
import { files } from "./files.js";
import { samples } from "./samples.js";

let shown = ""; // the document that is shown, as JSON: what it takes is asked for once

/** Show in #result what a run left. run: the document of GET /api/runs/{id}, of the old system's runs too. Called again
 * with a newer document, it brings everything up to date. */
export async function show(run) {
  const told = JSON.stringify(run);
  if (told === shown) return;
  shown = told;
  if (run.documents) return showOld(run);
  const left = await get(`${api(run)}/artefacts`).then(
    (told) => told.artefacts,
    (error) => error,
  );
  const kept = Array.isArray(left) ? left : [];
  said(run);
  actions(run, kept);
  winner(run);
  samples(run);
  if (Array.isArray(left)) files(run, kept);
  else {
    shown = ""; // asked for again when the document is told again, too
    put(
      $("#files"),
      h(
        "li",
        {},
        failure(left, () => show(run)),
      ),
    );
  }
  $("#left-part").hidden = false;
  certificate(run, kept);
  weights(run);
  await curve(run);
}

const api = (run) => `/api/runs/${encodeURIComponent(run.run_id)}`;
const done = (run) => OVER.includes(run.status);

// -- how it stands --------------------------------------------------------------------------------------------------

const said = (run) => put($("#result-said"), standing(run));

function standing(run) {
  if (outside(run)) {
    return notice(
      "info",
      _("Trained by another program"),
      _(
        "It only reported how the training went. Its adapters are not here, so there is nothing to verify or to download but the journal.",
      ),
    );
  }
  if (run.status === "completed") return notLogged(run);
  if (done(run)) return null;
  const trained = run.current_epoch > 0;
  return notice(
    "info",
    _("No adapters were kept"),
    trained
      ? _(
          "They are written and verified when a run ends by itself. What was learned is in its checkpoints: resume the run to go on from epoch {n}, or run it again with other settings.",
          { n: run.current_epoch },
        )
      : _("It ended before its first whole epoch. Resume it to begin with that, or run it again with other settings."),
  );
}

function notLogged(run) {
  const button = h("button", { class: "btn primary", type: "button" }, icon("tree"), _("Enter in the ledger"));
  const trouble = h("div", { class: "notice-more", role: "alert" });
  button.addEventListener("click", async () => {
    button.setAttribute("aria-disabled", "true");
    put(trouble);
    try {
      const told = await post(`${api(run)}/certify`, {}, { patience: LONG });
      if (told.problem) put(trouble, failure({ message: told.problem, fix: told.fix }));
      else location.reload(); // the whole page shows another status then
    } catch (error) {
      put(trouble, failure(error));
    }
    button.removeAttribute("aria-disabled");
  });
  const box = notice(
    "tree",
    _("Complete, but not yet in the ledger"),
    run.problem
      ? h("span", { lang: run.language }, run.problem)
      : _("Everything is trained and kept. It is certified when it is signed and entered in the ledger."),
    trouble,
  );
  box.append(button);
  return box;
}

const notice = (drawing, title, text, ...more) =>
  h(
    "section",
    { class: "notice", "aria-labelledby": "result-standing" },
    icon(drawing),
    h("div", {}, h("h2", { id: "result-standing" }, title), h("p", {}, text), more),
  );

// -- what can be done with it ---------------------------------------------------------------------------------------

/** The buttons in the page's head. */
function actions(run, kept) {
  const size = kept.reduce((sum, file) => sum + file.size, 0);
  const verified = done(run) && !outside(run);
  put(
    $("#result-actions"),
    verified &&
      h("a", { class: "btn", href: `/playground?run=${encodeURIComponent(run.run_id)}` }, icon("chat"), _("Try it")),
    !outside(run) &&
      run.config &&
      h("button", { class: "btn", id: "run-again", type: "button", onclick: () => again(run) }, _("Run again")),
    kept.length > 0 &&
      h(
        "a",
        {
          class: run.status === "certified" ? "btn primary" : "btn",
          href: `${api(run)}/archive`,
          download: `${run.run_id}.tar`,
        },
        icon("down"),
        _("Download all, {size}", { size: bytes(size) }),
      ),
  );
}

/** Fill the Train form; most who look at a run don't, so what that takes is loaded only then. */
const again = async (run) => (await part(import("./again.js")))?.again(run).catch(failed);

// -- who won --------------------------------------------------------------------------------------------------------

function winner(run) {
  const board = run.leaderboard ?? [];
  const first = board.find((each) => each.model === run.champion);
  $("#winner").hidden = !first;
  if (!first) return;
  put($("#seal"), seal(run.dna));
  put($("#champion-over"), mark(place(run, first.model)), board.length === 1 ? _("The only model") : _("Champion"));
  put($("#champion"), called(run, first.model));
  put($("#champion-lead"), sentences(run, board, first));
  put(
    $("#podium"),
    board.map((each) => standingOf(run, each)),
  );
}

/** The figures that decide, as they were measured. */
function sentences(run, board, first) {
  const metric = rankedBy(run);
  const rivals = board.filter((each) => each !== first && each[metric] != null);
  const second = rivals[0];
  return [
    first[metric] != null && h("b", {}, figure(metric, first[metric])),
    first[metric] != null && second ? [", ", distance(second[metric] - first[metric], called(run, second.model))] : ".",
    first.reward_accuracy != null && [
      " ",
      _("It prefers the chosen answer in {share} of the pairs.", { share: percent(first.reward_accuracy) }),
    ],
    first.best_epoch != null && [" ", best(run, first)],
  ];
}

const distance = (gap, name) =>
  gap ? _("{gap} ahead of {name}, the second.", { gap: number(gap, 3), name }) : _("level with {name}.", { name });

function best(run, first) {
  const last = run.current_epoch;
  if (first.best_epoch === last) return _n(last, "Its only epoch was kept.", "Its last epoch of {n} was its best.");
  return run.config?.training?.keep === "last"
    ? _("Its best epoch was {best} of {last}; the last was kept, as asked.", { best: first.best_epoch, last })
    : _("Its best epoch was {best} of {last}, and that was kept.", { best: first.best_epoch, last });
}

const figure = (metric, value) =>
  metric === "bits_per_byte"
    ? _("{value} bits per byte", { value: number(value, 3) })
    : _("Validation loss {value}", { value: number(value, 3) });

function standingOf(run, each) {
  const out = each.status === "quarantined" || each.status === "failed";
  const cause = each.cause ?? by(run.failed_models, each.model);
  return h(
    "li",
    {},
    out ? h("span", { class: "medal-out" }, icon("ban")) : medal(each.rank),
    h("span", { class: out ? "who-won muted" : "who-won" }, mark(place(run, each.model)), called(run, each.model)),
    h("span", { class: out ? "num muted" : "num" }, out ? _("quarantined") : number(each[rankedBy(run)], 3)),
    cause && h("small", { class: "why", lang: each.cause ? each.language : run.language }, cause),
  );
}

const medal = (rank) =>
  svg(
    "svg",
    { class: `medal m${rank}`, viewBox: "0 0 30 30", role: "img", "aria-label": number(rank) },
    svg("circle", { class: "in", cx: 15, cy: 15, r: 13 }),
    svg("circle", { cx: 15, cy: 15, r: 13 }),
    svg("text", { x: 15, y: 19.6 }, number(rank)),
  );

// -- the curve and the weights --------------------------------------------------------------------------------------

async function curve(run) {
  const at = $("#result-chart");
  $("#numbers").hidden = !done(run); // before its end, the live board and charts stand above
  if (!done(run)) return;
  try {
    const [{ chart }, told] = await Promise.all([
      import("./charts.js"),
      get(`/api/training/${encodeURIComponent(run.run_id)}/metrics`),
    ]);
    const metric = rankedBy(run);
    const of = (epoch) => (metric === "bits_per_byte" ? epoch.bits_per_byte : epoch.val_losses) ?? {};
    chart(at, {
      title: metric === "bits_per_byte" ? _("Validation bits per byte") : _("Validation loss"),
      note: _("lower is better"),
      x: { label: _("Epoch"), from: 1, to: Math.max(2, told.current_epoch) },
      series: run.base_models.map((key, index) => ({
        place: index,
        name: called(run, key),
        points: told.training_history
          .map((epoch) => [epoch.epoch, by(of(epoch), key)])
          .filter(([, value]) => value != null),
        dead: by(run.failed_models, key),
      })),
      digits: 3,
      better: "lower",
      empty: _("No epoch was measured."),
    });
  } catch (error) {
    if (at.classList.contains("chart")) return; // an older one is better than none
    put(
      at,
      failure(error, () => curve(run)),
    );
  }
}

/** How much each adapter counts where all of them are used together. */
function weights(run) {
  const told = run.final_weights;
  const keys = run.base_models.filter((key) => by(told, key) != null);
  $("#weights-part").hidden = keys.length < 2;
  if (keys.length < 2) return;
  const sum = keys.reduce((all, key) => all + told[key], 0);
  put($("#weights-sum"), _("sum {value}", { value: number(sum, 3) }));
  let from = 0;
  const parts = keys.map((key) => {
    const wide = (100 * told[key]) / sum;
    const part = svg("rect", {
      class: series(place(run, key)),
      x: `${from.toFixed(2)}%`,
      width: `${Math.max(0.2, wide - 0.4).toFixed(2)}%`,
      height: "100%",
    });
    from += wide;
    return part;
  });
  put(
    $("#weights"),
    svg("svg", { class: "stackbar", "aria-hidden": "true" }, parts),
    h(
      "ul",
      { class: "legend" },
      keys.map((key) => h("li", {}, mark(place(run, key)), called(run, key), h("b", {}, number(told[key], 3)))),
    ),
  );
}

// -- what the old system left ---------------------------------------------------------------------------------------

function showOld(run) {
  const told = Object.entries(run.documents);
  put(
    $("#result-said"),
    notice("info", _("From the old system"), h("span", { lang: run.language }, run.reason, " ", run.problem)),
    h(
      "dl",
      { class: "pairs" },
      pair(_("DNA or version"), run.version && h("code", {}, run.version)),
      pair(_("Made"), run.created_at && run.created_at.replace("T", " ")),
      pair(_("Base models"), run.base_models.length > 0 && h("code", {}, run.base_models.join(", "))),
      pair(_("Name before it was imported"), run.old_name && h("code", {}, run.old_name)),
    ),
    h(
      "section",
      { class: "old", "aria-labelledby": "old-title" },
      h("h2", { id: "old-title" }, _("What its files say")),
      told.length === 0 && h("p", { class: "muted" }, _("Nothing that can be read.")),
      told.map(([name, document_]) =>
        h(
          "details",
          { open: told.length === 1 },
          h("summary", {}, h("code", {}, name)),
          h(
            "pre",
            { class: "note", tabindex: "0", role: "region", "aria-label": name },
            JSON.stringify(document_, null, 2),
          ),
        ),
      ),
    ),
  );
}

/** A line of a list; none where there is nothing to say. The old system wrote times without their zone, so they stay as
 * they are. */
const pair = (name, value) => (value ? [h("dt", {}, name), h("dd", {}, value)] : null);
