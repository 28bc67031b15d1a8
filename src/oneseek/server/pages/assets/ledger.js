// The ledger: how large it is, what it signed, its entries with their proofs, and an audit of all of it.

import {
  $,
  LONG,
  NONE,
  _,
  _n,
  clock,
  copier,
  failure,
  fully,
  get,
  h,
  icon,
  mark,
  moment,
  number,
  percent,
  put,
  reached,
  series,
  svg,
} from "./ui.js";
import { bars } from "./dna.js";

const PAGE = 50;

let here = new Set(); // ids of the runs that are on this server
let next = 0; // the entries before this index are not shown yet
let size = 0;

$("#show-more").addEventListener("click", more);
$("#audit").addEventListener("click", audit);
begin();

// -- asked for ------------------------------------------------------------------------------------------------------

async function begin() {
  put($("#problem"));
  try {
    const summary = await get("/api/ledger");
    size = next = summary.size;
    if (!size) return nothing();
    const [first, checkpoint, listing] = await Promise.all([
      page(),
      reached("/api/ledger/checkpoint").then((answer) => answer.text()),
      get("/api/runs").catch(() => ({ runs: [] })), // without it entries are shown, only not linked
    ]);
    here = new Set(listing.runs.map((run) => run.run_id));
    facts(summary, first[0]);
    told(summary, checkpoint);
    add(first);
    $("#ledger").setAttribute("aria-busy", "false");
  } catch (error) {
    away(error);
  }
}

/** The next entries, the newest first. */
async function page() {
  const start = Math.max(0, next - PAGE);
  const { entries } = await get(`/api/ledger/entries?start=${start}&stop=${next}`);
  next = start;
  return entries.reverse();
}

async function more() {
  const button = $("#show-more");
  button.setAttribute("aria-disabled", "true");
  put($("#problem"));
  try {
    const shown = $("#entries tbody").rows.length;
    add(await page());
    $("#entries tbody").rows[shown]?.querySelector("a, button").focus();
  } catch (error) {
    put($("#problem"), failure(error));
  }
  button.removeAttribute("aria-disabled");
}

function nothing() {
  $("#empty").hidden = false;
  $("#ledger").hidden = $("#audit").hidden = true;
}

/** The ledger can't be asked, or is damaged: what is wrong, and what to do. */
function away(error) {
  $("#ledger").hidden = $("#audit").hidden = true;
  const again = () => {
    $("#ledger").hidden = $("#audit").hidden = false;
    begin();
  };
  put(
    $("#problem"),
    failure(error),
    h(
      "p",
      { class: "row after" },
      h("button", { class: "btn", type: "button", onclick: again }, _("Try again")),
      error.status === 502 && h("span", { class: "muted" }, _("Runs go on without it, and can be entered later.")),
    ),
  );
}

// -- drawn ----------------------------------------------------------------------------------------------------------

function facts(summary, newest) {
  const fact = (name, ...value) => h("div", {}, h("dt", {}, name), h("dd", {}, ...value));
  put(
    $("#facts"),
    fact(_("Entries"), number(summary.size)),
    fact(_("Last entry"), moment(newest.timestamp)),
    fact(_("Name"), h("code", {}, summary.origin)),
    fact(_("Root"), digest(summary.root, _("Copy the root"))),
  );
}

function told(summary, checkpoint) {
  $("#key").textContent = summary.key;
  $("#copy-key").dataset.copy = summary.key;
  $("#checkpoint").textContent = checkpoint;
  $("#copy-checkpoint").dataset.copy = checkpoint;
}

function add(entries) {
  $("#entries tbody").append(...entries.map(row));
  const shown = size - next;
  $("#shown").textContent = next
    ? _("the newest {n} of {total}", { n: number(shown), total: number(size) })
    : _n(size, "{n} entry", "{n} entries");
  $("#more").hidden = !next;
  $("#show-more").textContent = _("Show the next {n}", { n: number(Math.min(PAGE, next)) });
}

function row(entry) {
  const cell = (style, ...children) => h("td", { class: style, role: "cell" }, ...children);
  return h(
    "tr",
    { role: "row", id: `entry-${entry.index}` },
    cell("num c-no muted", number(entry.index)),
    cell(
      "c-at nowrap",
      h("time", { datetime: entry.timestamp, title: fully(entry.timestamp) }, moment(entry.timestamp)),
    ),
    h("td", { class: "c-run", role: "rowheader" }, run(entry)),
    cell("c-dna", bars(entry.dna, true), h("small", {}, version(entry.dna))),
    cell("c-weights", weights(entry)),
    cell(
      "c-digest nowrap",
      digest(entry.manifest_sha256, _("Copy the digest of the manifest, entry {n}", { n: entry.index })),
    ),
    cell(
      "c-proof",
      h(
        "a",
        {
          class: "btn quiet small",
          href: `/api/ledger/proofs/${entry.index}`,
          download: `entry-${entry.index}.tlog-proof`,
          "aria-label": _("Proof of entry {n}", { n: entry.index }),
        },
        icon("down"),
        _("Proof"),
      ),
    ),
  );
}

function run(entry) {
  const id = h("code", {}, entry.run_id);
  if (here.has(entry.run_id)) return h("a", { href: `/runs/${encodeURIComponent(entry.run_id)}` }, id);
  return [id, h("small", {}, _("not on this server"))];
}

/** What a DNA says before its three hashes. */
const version = (dna) => dna.split(".").slice(0, -3).join(".");

/** Who won, with how much of the whole, and the shares of all as a bar. */
function weights(entry) {
  const shares = Object.entries(entry.final_weights).sort(([, one], [, other]) => other - one);
  const place = (key) => Math.max(0, entry.baseModels.indexOf(key));
  const [first] = shares;
  if (!first) return NONE;
  let from = 0;
  const said = shares.map(([key, share]) => `${key} ${percent(share)}`).join(", ");
  return [
    h("span", { class: "who1" }, mark(place(first[0])), h("span", {}, first[0]), h("b", {}, percent(first[1]))),
    svg(
      "svg",
      { class: "stackbar", role: "img", "aria-label": said },
      svg("title", {}, said),
      shares.map(([key, share]) => {
        const x = from;
        from += 100 * share;
        return svg("rect", { class: series(place(key)), x: `${x}%`, width: `${100 * share}%`, height: "100%" });
      }),
    ),
  ];
}

/** The beginning of a digest, which is copied whole. */
const digest = (hex, label) =>
  h("span", { class: "digest" }, h("code", { title: hex }, `${hex.slice(0, 8)}…`), copier(hex, label));

// -- audit ----------------------------------------------------------------------------------------------------------

async function audit() {
  const button = $("#audit");
  const place = $("#audited");
  button.setAttribute("aria-disabled", "true");
  put(
    place,
    h(
      "div",
      { class: "verdict" },
      icon("hour"),
      h("p", {}, h("b", {}, _("Auditing …")), " ", $("#audit-what").textContent),
    ),
  );
  try {
    put(place, verdict(await get("/api/ledger/audit", { patience: LONG })));
  } catch (error) {
    put(place, failure(error));
  }
  button.removeAttribute("aria-disabled");
}

function verdict({ ok, checked, problems }) {
  return h(
    "div",
    { class: ok ? "verdict good" : "verdict bad" },
    icon(ok ? "check" : "err"),
    h(
      "div",
      {},
      h(
        "p",
        {},
        h("b", {}, ok ? _("Nothing was changed, removed or put in between.") : _("The ledger is not what it signed.")),
        " ",
        checked && `${counted(checked)}. `,
        _("Audited at {time}.", { time: clock(new Date()) }),
      ),
      problems.map(({ problem, fix, language }) => h("p", { lang: language }, problem, " ", fix)),
      checked?.elsewhere.length > 0 &&
        h("p", {}, _("Not compared, being in another ledger: {runs}", { runs: checked.elsewhere.join(", ") })),
    ),
  );
}

const counted = ({ entries, checkpoints, kept }) =>
  [
    _n(entries, "{n} entry read and hashed", "{n} entries read and hashed"),
    _n(checkpoints, "{n} checkpoint compared", "{n} checkpoints compared"),
    _n(kept, "{n} kept by a run", "{n} kept by runs"),
  ].join(", ");
