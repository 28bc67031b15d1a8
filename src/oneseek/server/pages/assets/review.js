// The dialog before the start: every error and every warning in the server's words, and the start itself.
import { $, LONG, _, _n, about, bytes, failure, h, icon, post, put } from "./ui.js";
import * as form from "./form.js";
import { effective, fixButton, focusIn, labelOf, placeOf, stepOf, tongue } from "./settings.js";

const dialog = $("#review");
const start = $("#start");
const read = $("#read");
const state = { busy: false, error: null, drawn: "", warned: "" };

/** Open the dialog over what the server says now, and keep it so. */
export function open() {
  if (dialog.open) return;
  state.error = null;
  form.review();
  draw();
  dialog.showModal();
  $("#review-findings").scrollTop = 0;
}

$("#review-back").addEventListener("click", () => dialog.close());
read.addEventListener("change", drawStart);
start.addEventListener("click", begin);
form.on("change", () => dialog.open && drawStart());
form.on("verdict", () => dialog.open && draw());
addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  state.busy = false; // the run was started, and somebody came back
  dialog.close();
});

function draw() {
  const found = form.verdict()?.findings ?? [];
  const key = JSON.stringify(found);
  if (key !== state.drawn) {
    state.drawn = key;
    drawFindings(found);
  }
  $("#review-sum").textContent = summary();
  drawStart();
}

function drawFindings(found) {
  const errors = found.filter((finding) => finding.severity === "error");
  const warnings = found.filter((finding) => finding.severity === "warning");
  put(
    $("#review-findings"),
    errors.length
      ? group(
          "bad",
          "err",
          _n(errors.length, "{n} error: solve it to start", "{n} errors: solve them to start"),
          errors,
        )
      : h("h3", { class: "group-title good" }, icon("check"), _("No errors")),
    warnings.length > 0 &&
      group(
        "warn",
        "warn",
        _n(warnings.length, "{n} warning: read it, then decide", "{n} warnings: read them, then decide"),
        warnings,
      ),
  );
  // other warnings than those that were read are to be read again
  const warned = JSON.stringify(warnings.map(({ field, problem }) => [field, problem]));
  if (warned !== state.warned) read.checked = false;
  state.warned = warned;
  $("#review-read").hidden = !warnings.length;
  $("#review-read span").textContent = _n(warnings.length, "I have read the warning", "I have read the {n} warnings");
}

const group = (tone, sign, title, found) => [
  h("h3", { class: `group-title ${tone}` }, icon(sign), title),
  h(
    "ul",
    {},
    found.map((finding) => entry(finding, tone, sign)),
  ),
];

function entry(finding, tone, sign) {
  const there = () => {
    dialog.close();
    show(finding);
  };
  const lang = tongue(finding);
  const [problem, ...rest] = finding.problem.split("\n");
  return h(
    "li",
    { class: "finding" },
    icon(sign, tone),
    h(
      "div",
      { class: "words", lang },
      h("p", {}, problem),
      rest.map((line) => h("p", { class: "rest" }, line)),
    ),
    fixButton(finding, "btn small") ??
      h(
        "button",
        { class: "btn quiet small", type: "button", onclick: there },
        _("Show it"),
        h("span", { class: "vh" }, ` (${labelOf(finding.field)})`),
      ),
    h("p", {}, h("span", { lang }, finding.fix), " ", h("span", { class: "rule", lang: "en" }, finding.rule)),
  );
}

/** Show where a finding belongs, and put the focus there. */
function show(finding) {
  const place = placeOf(finding.field) ?? $(`#${stepOf(finding.field)}`);
  for (let around = place; around; around = around.parentElement?.closest("details")) {
    if (around.matches("details")) around.open = true;
  }
  place.scrollIntoView({ block: "center" });
  focusIn(place);
}

function summary() {
  const { estimate, rows, ok } = form.verdict() ?? {};
  const models = [form.value("model.base_models") ?? []].flat().length;
  const epochs = effective("training.num_epochs");
  const memory = estimate && [...estimate.models].map((model) => model.memory.total).sort((one, other) => other - one);
  return [
    models && _n(models, "{n} model", "{n} models"),
    rows && _n(rows, "{n} row", "{n} rows"),
    ok && _n(epochs, "{n} epoch", "{n} epochs"),
    estimate?.seconds != null && about(estimate.seconds),
    memory &&
      _("{size} of memory", { size: bytes(memory.slice(0, estimate.at_once).reduce((sum, size) => sum + size, 0)) }),
  ]
    .filter(Boolean)
    .join(" · ");
}

function drawStart() {
  const why = whyNot();
  start.setAttribute("aria-disabled", Boolean(why));
  $("#start-why").textContent = why;
  const warned = form.settled() && form.verdict().ok && form.verdict().findings.length > 0;
  $("span", start).textContent = state.busy ? _("Starting") : warned ? _("Start anyway") : _("Start run");
  put($("#review-failure"), state.error && refusal(state.error));
}

/** What stands in the way of the start, "" for nothing. */
function whyNot() {
  if (state.busy) return _("The run is being started.");
  if (form.failure()) return _("The server does not answer. These settings can’t be checked now.");
  if (!form.settled()) return _("The settings are being checked.");
  const found = form.verdict().findings;
  const errors = found.filter((finding) => finding.severity === "error").length;
  if (errors) return _n(errors, "Solve the error first.", "Solve the {n} errors first.");
  return found.length && !read.checked ? _("Say first that you have read the warnings.") : "";
}

async function begin() {
  if (whyNot()) return;
  state.busy = true;
  state.error = null;
  drawStart();
  try {
    const { run_id: run } = await post("/api/admin/training/start-dna-v2", form.body(), { patience: LONG });
    form.forget();
    location.assign(`/runs/${encodeURIComponent(run)}`); // it stays busy: one run is enough
  } catch (error) {
    state.busy = false;
    if (error.findings?.length) form.refused(error.findings);
    state.error = error;
    drawStart();
  }
}

/** Where the answer was lost, the run may have begun all the same. */
function refusal(error) {
  const unsure = [0, 502, 504].includes(error.status);
  return [
    failure(error),
    unsure &&
      h(
        "p",
        { class: "msg" },
        icon("info"),
        h("span", {}, _("The run may have begun all the same."), " ", h("a", { href: "/runs" }, _("See the runs"))),
      ),
  ];
}
