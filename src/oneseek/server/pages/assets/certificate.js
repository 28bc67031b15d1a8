// What makes a run worth believing: its DNA, its proof from the ledger, and every check, made again by the server.
import { $, LONG, _, _n, clock, failure, fully, get, h, icon, number, put, reached, svg } from "./ui.js";
import { bars, parts } from "./dna.js";
import { tree } from "./tree.js";

const MOST_UNASKED = 4e9; // bytes of files that are verified without being asked: each is read whole

/** Show DNA, ledger proof and verification of a certified run. kept: its files. */
export function certificate(run, kept) {
  const certified = run.status === "certified";
  $("#proof").hidden = !certified;
  if (!certified) return;
  dna(run);
  proof(run, kept);
  const check = (sources) => verify(run, sources);
  $("#verify-again").onclick = () => check(false);
  $("#verify-sources").onclick = () => check(true);
  if (kept.reduce((sum, file) => sum + file.size, 0) <= MOST_UNASKED) check(false);
  else put($("#verify-said"), _("Its files are large, so they are read only when you ask."));
}

// -- DNA ------------------------------------------------------------------------------------------------------------

/** The champion's seal: 24 rays, as long as the digits of the DNA, so every run has its own. */
export function seal(dna_) {
  const digits = [...parts(dna_).join("")];
  const about = digits.length ? _("First place. The rays are this run’s DNA.") : _("First place.");
  return svg(
    "svg",
    { class: "laurel", viewBox: "0 0 96 96", role: "img", "aria-label": about },
    svg("circle", { class: "disc", cx: 48, cy: 48, r: 23 }),
    svg("circle", { class: "rim", cx: 48, cy: 48, r: 23 }),
    svg("g", { class: "rays" }, digits.map(ray)),
    svg("path", { class: "one", d: "M43.5 42.5 49 38v20M43.5 58h11" }),
  );
}

function ray(digit, at) {
  const [x, y] = [Math.sin((at * Math.PI) / 12), -Math.cos((at * Math.PI) / 12)];
  const end = 33 + (11 * parseInt(digit, 16)) / 15;
  const points = { x1: 48 + 29 * x, y1: 48 + 29 * y, x2: 48 + end * x, y2: 48 + end * y };
  return svg("line", Object.fromEntries(Object.entries(points).map(([name, value]) => [name, value.toFixed(1)])));
}

function dna(run) {
  const found = parts(run.dna);
  const family = run.dna.split(".").slice(0, -3).join(".");
  put(
    $("#dna-box"),
    bars(run.dna),
    h(
      "div",
      { class: "dnakeys" },
      part(_("Dataset"), run.dataset?.name ?? _("its bytes")),
      part(_("Recipe"), _("settings, seed, rows, base models")),
      part(_("Weights"), weights(run)),
    ),
    h(
      "div",
      { class: "dnaline" },
      h(
        "code",
        { class: "dnastr" },
        family,
        found.map((each) => [".", h("span", {}, each)]),
      ),
      h("button", { class: "btn small", type: "button", "data-copy": run.dna }, icon("copy"), _("Copy DNA")),
    ),
  );
  const command = `oneseek reproduce ${run.run_id}`;
  $("#reproduce").textContent = command;
  $("#reproduce-copy").dataset.copy = command;
}

const part = (title, text) => h("span", {}, h("b", {}, title), text);

function weights(run) {
  const trained = run.leaderboard.filter((each) => each.status === "verified");
  return _n(trained.length, "the adapter", "{n} adapters");
}

// -- the ledger -----------------------------------------------------------------------------------------------------

async function proof(run, kept) {
  if (!kept.some((file) => file.path === "ledger_proof.json")) return;
  $("#ledger-part").hidden = false;
  const at = $("#ledger-said");
  try {
    const own = await get(`/api/runs/${encodeURIComponent(run.run_id)}/artefacts/ledger_proof.json`);
    const { index } = read(own.proof);
    const address = `/api/ledger/proofs/${index}`;
    const now = await reached(address).then(
      (answer) => answer.text(),
      (error) => error,
    );
    const newest = typeof now === "string";
    put(
      at,
      entry(own, read(newest ? now : own.proof), newest ? address : null),
      !newest &&
        h(
          "p",
          { class: "msg" },
          icon("warn", "warn"),
          h("span", {}, now.message, " ", _("This is the proof that the run carries with it.")),
        ),
    );
  } catch (error) {
    put(
      at,
      failure(error, () => proof(run, kept)),
    );
  }
}

/** What a tlog-proof says (c2sp.org/tlog-proof): the entry's index, and the signed checkpoint with origin and size. */
function read(text) {
  const [head, ...rest] = text.split("\n\n");
  const note = rest.join("\n\n");
  const [origin, size] = note.split("\n");
  return { index: Number(/^index (\d+)$/m.exec(head)?.[1]), origin, size: Number(size), note };
}

function entry(own, { index, origin, size, note }, address) {
  const counted = { place: number(index + 1), n: number(size) };
  return [
    h(
      "div",
      { class: "ledger" },
      h(
        "dl",
        { class: "pairs" },
        pair(
          _("Entry"),
          h("b", {}, number(index)),
          " ",
          _("(number {place} of {n}: entries are counted from 0)", counted),
        ),
        pair(_("Event"), h("code", {}, own.event)),
        pair(_("Recorded"), fully(own.timestamp)),
        pair(_("Ledger"), h("code", {}, origin)),
      ),
      size > 1 && tree(index, size),
    ),
    h("h3", { class: "note-title" }, _("Signed checkpoint")),
    h("pre", { class: "note", tabindex: "0", role: "region", "aria-label": _("Signed checkpoint") }, note.trimEnd()),
    h(
      "div",
      { class: "row" },
      address &&
        h(
          "a",
          { class: "btn small", href: address, download: `${own.run_id}.tlog-proof` },
          icon("down"),
          _("Download the proof"),
        ),
      h("a", { class: "btn quiet small", href: "/ledger" }, icon("tree"), _("See the ledger")),
    ),
  ];
}

const pair = (name, ...text) => [h("dt", {}, name), h("dd", {}, text)];

// -- verification ---------------------------------------------------------------------------------------------------

let asking = null;

/** Have the server check everything, and show each check. sources: the dataset and base models that are here too. */
async function verify(run, sources) {
  asking?.abort();
  const mine = (asking = new AbortController());
  const [at, list] = [$("#verify-said"), $("#checks")];
  const buttons = [$("#verify-again"), $("#verify-sources")];
  for (const each of buttons) each.setAttribute("aria-disabled", "true");
  list.setAttribute("aria-busy", "true");
  put(at, _("Every file is being read…"));
  if (!list.firstChild) put(list, Object.values(CHECKS()).map(awaited));
  try {
    const query = sources ? "?sources=true" : "";
    const told = await get(`/api/runs/${encodeURIComponent(run.run_id)}/verify${query}`, {
      signal: mine.signal,
      patience: LONG,
    });
    put(
      list,
      told.checks.map((each) => check(each, sources)),
    );
    put(at, summary(told));
    alarm(told);
    const focused = document.activeElement === $("#verify-sources");
    $("#verify-more").hidden = sources || !told.checks.some(needsSources);
    if (focused && $("#verify-more").hidden) $("#verify-again").focus();
  } catch (error) {
    if (error.name === "AbortError") return;
    if ($(".is-awaited", list)) put(list); // none of them is being made
    put(at, failure(error));
  }
  for (const each of buttons) each.removeAttribute("aria-disabled");
  list.removeAttribute("aria-busy");
}

const needsSources = ({ name, result }) => result === "not checkable" && ["dataset", "base models"].includes(name);

function summary({ checks }) {
  const [ok, failed, open] = ["ok", "failed", "not checkable"].map(
    (result) => checks.filter((each) => each.result === result).length,
  );
  const made = failed
    ? h("b", { class: "bad" }, _n(failed, "{n} check failed", "{n} checks failed"))
    : _("{ok} of {n} checks passed", { ok, n: checks.length });
  return [
    made,
    open > 0 && [", ", _n(open, "{n} not made", "{n} not made")],
    " · ",
    _("checked at {time}", { time: clock(Date.now()) }),
  ];
}

function check({ number: which, name, result, detail, language }, sources) {
  const later = !sources && needsSources({ name, result });
  const [title, file] = CHECKS()[name] ?? [name, ""];
  const [drawing, tone, word] = RESULTS()[result];
  return h(
    "li",
    { class: `is-${result.replace(" ", "-")}` },
    icon(drawing, tone),
    h("span", { class: "n" }, number(which)),
    h("span", {}, title, " ", h("span", { class: result === "ok" ? "vh" : `verdict ${tone}` }, word)),
    h("code", {}, file),
    later ? h("small", {}, _("Compared only when you ask for it, below.")) : h("small", { lang: language }, detail),
  );
}

/** A check that is still to be made, as high as it will be. */
const awaited = ([title, file], at) =>
  h(
    "li",
    { class: "is-not-checkable is-awaited" },
    icon("hour"),
    h("span", { class: "n" }, number(at + 1)),
    h("span", {}, title),
    h("code", {}, file),
    h("small", {}, "…"),
  );

const RESULTS = () => ({
  ok: ["check", "good", _("passed")],
  failed: ["x", "bad", _("failed")],
  "not checkable": ["eq", "", _("not made")],
});

/** What each check is about, and where it is seen. */
const CHECKS = () => ({
  format: [_("Completeness"), "manifest.json"],
  signature: [_("Signature"), "model.sig"],
  digests: [_("Digests of all files"), "manifest.json"],
  encoding: [_("Form of the documents"), "*.json"],
  journal: [_("Journal"), "journal.jsonl"],
  documents: [_("Results"), "training_results.json"],
  adapters: [_("Adapters"), "adapters/"],
  dna: [_("Recomputed DNA"), "oneseek_dna.json"],
  leaf: [_("Ledger entry"), "ledger_proof.json"],
  inclusion: [_("Place in the ledger"), "ledger_proof.json"],
  consistency: [_("Growth of the ledger"), "ledger_proof.json"],
  keys: [_("Signer and ledger keys"), "model.sig"],
  dataset: [_("Dataset used"), "recipe.json"],
  "base models": [_("Base models used"), "recipe.json"],
});

/** A run that is not what was certified says so at the top, before anybody uses it. */
function alarm({ ok, checks }) {
  const at = $("#result-said");
  $("#result").classList.toggle("untrue", !ok);
  $("#result-actions a[download]")?.classList.toggle("primary", ok);
  if (ok) return at.querySelector(".alarm")?.remove();
  const wrong = checks.find((each) => each.result === "failed");
  const box = h(
    "section",
    { class: "failure alarm", role: "alert", "aria-labelledby": "alarm-title" },
    icon("err", "bad"),
    h(
      "div",
      {},
      h("h2", { id: "alarm-title" }, _("This is not what was certified")),
      h("p", { lang: wrong.language }, wrong.detail),
      h(
        "p",
        {},
        _("Don’t use its files. Restore the run’s directory from a backup, then verify again."),
        " ",
        h("a", { href: "#verify-title" }, _("See every check")),
      ),
    ),
  );
  at.querySelector(".alarm")?.remove();
  at.prepend(box);
}
