// All runs: filtered, searched, selected and compared. What is filtered and selected stands in the address.

import {
  $,
  NONE,
  _,
  _n,
  badge,
  clock,
  duration,
  failed,
  failure,
  fully,
  get,
  h,
  icon,
  language,
  mark,
  moment,
  number,
  put,
  status,
} from "./ui.js";
import { bars } from "./dna.js";

const PAGE = 50;
const PERIOD = 5000; // ms between two looks while something runs
const MOST = 6; // runs compared at once: as many as there are colours

const OVER = ["stopped", "interrupted", "failed", "damaged", "completed", "certified"];
const MOVING = ["queued", "preparing", "training", "stopping"];

let runs = null; // null as long as the server has told none
let waiting = new Map(); // place in the queue by run id, 0 is next
let limit = PAGE;
let view = read();
let timer = 0;
let asking = false;
let told = null; // when the runs shown were told
const rows = new Map(); // drawn rows, by run id and whether it can be compared

listen();
refresh();

// -- asked for ------------------------------------------------------------------------------------------------------

async function refresh() {
  if (asking) return;
  asking = true;
  clearTimeout(timer);
  const began = performance.now();
  let problem = null;
  try {
    const answer = await get("/api/runs");
    const queue = answer.runs.some((run) => run.status === "queued") ? (await get("/api/queue")).queue : [];
    runs = answer.runs;
    waiting = new Map(queue.map((place) => [place.run_id, place.position]));
    told = new Date();
  } catch (error) {
    problem = error;
  }
  asking = false;
  say(problem);
  if (runs) draw();
  const goesOn = problem || runs.some((run) => MOVING.includes(run.status));
  if (goesOn && !document.hidden) timer = setTimeout(refresh, Math.max(PERIOD, 10 * (performance.now() - began)));
}

/** What could not be asked; what is on the page stays. */
function say(problem) {
  const place = $("#problem");
  if (!problem) return put(place);
  if (!runs) return put(place, failure(problem));
  if (place.dataset.said === problem.message && place.firstChild) return place;
  place.dataset.said = problem.message;
  return put(
    place,
    h(
      "p",
      { class: "stale", role: "status" },
      icon("warn", "warn"),
      h(
        "span",
        {},
        `${problem.message} ${problem.fix ?? ""} `,
        _("These are the runs as of {time}.", { time: clock(told) }),
      ),
    ),
  );
}

// -- the address ----------------------------------------------------------------------------------------------------

function read() {
  const given = new URLSearchParams(location.search);
  const picked = (given.get("compare") ?? given.get("selected") ?? "").split(",").filter(Boolean).slice(0, MOST);
  return {
    status: given.get("status") ?? "",
    q: given.get("q") ?? "",
    picked: [...new Set(picked)],
    comparing: given.has("compare"),
  };
}

/** Put the view into the address. `step`: going back comes here again. */
function write(step = false) {
  const told = new URLSearchParams();
  if (view.status) told.set("status", view.status);
  if (view.q) told.set("q", view.q);
  if (view.picked.length) told.set(view.comparing ? "compare" : "selected", view.picked.join(","));
  const address = `/runs${told.size ? `?${told}` : ""}`.replaceAll("%2C", ",");
  if (address === location.pathname + location.search) return;
  if (step) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
}

function listen() {
  $("#search").value = view.q;
  $("#search").addEventListener("input", (event) => {
    view.q = event.target.value;
    limit = PAGE;
    write();
    draw();
  });
  $("#statuses").addEventListener("change", (event) => {
    view.status = event.target.value;
    limit = PAGE;
    write(true);
    draw();
  });
  $("#runs").addEventListener("change", (event) => pick(event.target.value, event.target.checked));
  $("#clear").addEventListener("click", () => {
    view.picked = [];
    view.comparing = false;
    write(true);
    draw();
    $("#search").focus();
  });
  $("#compare-picked").addEventListener("click", () => {
    view.comparing = true;
    write(true);
    draw();
    $("#compare-title").focus({ preventScroll: true });
    $("#compare").scrollIntoView();
  });
  $("#close-compare").addEventListener("click", () => {
    view.comparing = false;
    write(true);
    draw();
    $("#compare-picked").focus();
  });
  $("#show-more").addEventListener("click", () => {
    const first = limit;
    limit += PAGE;
    draw();
    $("#runs tbody").rows[first]?.querySelector("a").focus();
  });
  addEventListener("popstate", () => {
    view = read();
    $("#search").value = view.q;
    draw();
  });
  document.addEventListener("visibilitychange", () => !document.hidden && refresh());
}

function pick(id, chosen) {
  view.picked = view.picked.filter((each) => each !== id);
  if (chosen) view.picked.push(id);
  if (view.picked.length < 2) view.comparing = false;
  write();
  draw();
}

// -- drawn ----------------------------------------------------------------------------------------------------------

function draw() {
  if (!runs) return;
  const found = runs.filter((run) => has(run, view.status) && means(run, view.q));
  const none = !runs.length;
  $("#empty").hidden = !none;
  $("#tools").hidden = $("#list").hidden = $("#new").hidden = none;
  $("#list").setAttribute("aria-busy", "false");
  drawStatuses();
  drawRows(found.slice(0, limit));
  drawMore(found);
  drawPicked();
  drawCompared();
}

const GROUPS = () => [
  ["", null, _("All"), null],
  ["training", "bolt", _("Training"), ["preparing", "training", "stopping"]],
  ["queued", "clock", _("Queued"), ["queued"]],
  ["certified", "seal", _("Certified"), ["certified"]],
  ["completed", "tree", _("Not yet logged"), ["completed"]],
  ["stopped", "stop", _("Stopped"), ["stopped"]],
  ["interrupted", "warn", _("Interrupted"), ["interrupted"]],
  ["failed", "err", _("Failed"), ["failed"]],
  ["damaged", "err", _("Damaged"), ["damaged"]],
  ["elsewhere", "check", _("Trained elsewhere"), ["elsewhere"]],
  ["old", "folder", _("Old system"), ["old"]],
];

/** What a run counts as. What another program has finished is never certified, so it waits for no entry either. */
function kind(run) {
  if (![...OVER, ...MOVING].includes(run.status)) return "old";
  return run.engine === "outside" && run.status === "completed" ? "elsewhere" : run.status;
}

function has(run, group) {
  const kinds = GROUPS().find(([name]) => name === group)?.[3];
  return !kinds || kinds.includes(kind(run));
}

/** Whether every word of a search is in what the run is known by. */
function means(run, words) {
  const known = [run.run_id, run.old_name, run.dataset?.name, run.dna ?? run.version, ...models(run)]
    .join("\n")
    .toLowerCase();
  return words
    .toLowerCase()
    .split(/\s+/)
    .every((word) => known.includes(word));
}

const models = (run) => (run.base_models ?? []).flatMap((key) => [key, run.display_names?.[key] ?? ""]);

function drawStatuses() {
  const counts = new Map();
  for (const run of runs) counts.set(kind(run), (counts.get(kind(run)) ?? 0) + 1);
  const chips = GROUPS()
    .map(([name, drawing, label, kinds]) => {
      const total = kinds ? kinds.reduce((sum, each) => sum + (counts.get(each) ?? 0), 0) : runs.length;
      return { name, drawing, label, total };
    })
    .filter(({ name, total }) => total || name === view.status || name === "");
  const box = $("#statuses");
  const drawn = chips.map(({ name }) => name).join();
  if (box.dataset.drawn !== drawn) {
    box.dataset.drawn = drawn;
    const focused = box.contains(document.activeElement) ? document.activeElement.value : null;
    put(
      box,
      $("legend", box),
      chips.map(({ name, drawing, label }) =>
        h(
          "label",
          { class: "chip" },
          h("input", { type: "radio", name: "status", value: name }),
          drawing && icon(drawing),
          label,
          " ",
          h("span", {}),
        ),
      ),
    );
    if (focused != null) $(`input[value="${focused}"]`, box)?.focus();
  }
  chips.forEach(({ name, total }) => {
    const input = $(`input[value="${name}"]`, box);
    input.checked = name === view.status;
    input.parentElement.lastElementChild.textContent = number(total);
  });
  if (!$(":checked", box)) $("input", box).checked = true;
}

function drawRows(shown) {
  const full = view.picked.length >= MOST;
  const body = $("#runs tbody");
  const wanted = shown.map((run) => {
    const key = `${run.run_id} ${comparable(run)}`;
    if (!rows.has(key)) rows.set(key, row(run));
    const drawn = rows.get(key);
    drawn.update(run, full);
    return drawn.element;
  });
  // Only what moved is moved: a row that stays keeps its focus.
  const gone = new Set(body.children);
  wanted.forEach((element) => gone.delete(element));
  gone.forEach((element) => element.remove());
  wanted.forEach(
    (element, at) => body.children[at] !== element && body.insertBefore(element, body.children[at] ?? null),
  );
}

/** A row of the table, and how to bring it up to date: only cells that changed are drawn again. */
function row(run) {
  const box = comparable(run) && h("input", { class: "check", type: "checkbox", value: run.run_id });
  const link = h("a", { href: `/runs/${encodeURIComponent(run.run_id)}` });
  const id = h("small", {}, h("code", {}, run.run_id));
  const cells = COLUMNS.map(({ style }) => h("td", { class: style, role: "cell" }));
  const drawn = [];
  const element = h(
    "tr",
    { role: "row" },
    h("td", { class: "c-pick", role: "cell" }, box && h("label", {}, box)),
    h("td", { class: "c-run", role: "cell" }, link, id),
    cells,
  );
  function update(now, full) {
    const name = title(now);
    if (link.textContent !== name) link.textContent = name;
    id.hidden = name === now.run_id;
    if (box) {
      const chosen = view.picked.includes(now.run_id);
      box.checked = chosen;
      box.ariaLabel = _("Compare {name}, {id}", { name, id: now.run_id });
      if (full && !chosen) {
        box.setAttribute("aria-disabled", "true");
        box.setAttribute("aria-describedby", "picked-said");
      } else ["aria-disabled", "aria-describedby"].forEach((attribute) => box.removeAttribute(attribute));
    }
    COLUMNS.forEach(({ of, draw: drawCell }, at) => {
      const told = JSON.stringify(of(now)) ?? "";
      if (drawn[at] === told) return;
      drawn[at] = told;
      put(cells[at], drawCell(now));
    });
  }
  return { element, update };
}

/** Only what has settings that can be read can be compared. */
const comparable = (run) => !["old", "damaged"].includes(kind(run));
const title = (run) => run.dataset?.name ?? run.old_name ?? run.run_id;

const COLUMNS = [
  {
    style: "c-st",
    of: (run) => [run.status, run.engine, cause(run), note(run)],
    draw: (run) => [
      standing(run),
      cause(run)
        ? h("small", { lang: language === "en" ? null : "en", title: cause(run) }, cause(run))
        : h("small", {}, note(run)),
    ],
  },
  {
    style: "c-champ",
    of: (run) => [best(run), run.champion, run.display_names],
    draw: (run) => leading(run),
  },
  { style: "num c-bpb", of: (run) => ranked(run), draw: (run) => measured(run) },
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
    draw: (run) =>
      h(
        "span",
        { title: Number.isNaN(Date.parse(run.created_at)) ? null : fully(run.created_at) },
        since(run.created_at),
      ),
  },
];

const dash = () => h("span", { class: "muted" }, NONE);

function standing(run) {
  const known = kind(run);
  if (known === "old") return badge("", "folder", _("Old system"));
  return known === "elsewhere" ? badge("", "check", _("Completed")) : status(run.status);
}

/** What is worth knowing beside the status. */
function note(run) {
  const left = minutesLeft(run);
  const place = waiting.get(run.run_id);
  if (kind(run) === "old" && !run.problem) return _("Can't be verified");
  if (run.engine === "outside") return _("Trained elsewhere");
  if (place != null) return place ? _("Place {n} in the queue", { n: number(place + 1) }) : _("Next in the queue");
  if (left != null) return _("about {time} left", { time: duration(60 * left) });
  if (run.status === "interrupted") return _("Can be resumed");
  const gone = Object.keys(run.failed_models ?? {}).length;
  return gone ? _n(gone, "{n} model quarantined", "{n} models quarantined") : "";
}

/** What went wrong with a run, in the words of its journal, which are English. */
const cause = (run) =>
  run.problem ?? (run.status === "failed" ? (run.failure?.problem ?? Object.values(run.failed_models ?? {})[0]) : null);

/** Minutes until a run is done, by what it took so far; null before its first epoch, since until then it was made ready
 * most of the time. */
function minutesLeft(run) {
  if (run.status !== "training" || run.engine === "outside" || !run.current_epoch) return null;
  return Math.ceil((run.seconds * (100 / run.progress_percent - 1)) / 60);
}

const best = (run) => run.champion ?? run.leader ?? null;

function leading(run) {
  const key = best(run);
  if (!key) return dash();
  return h(
    "span",
    { class: "who1" },
    mark(Math.max(0, run.base_models.indexOf(key))),
    h(
      "span",
      {},
      run.display_names?.[key] ?? key,
      !run.champion && h("small", {}, MOVING.includes(run.status) ? _("leads now") : _("was leading")),
    ),
  );
}

/** The number that a run is ranked by, and what it is. */
function ranked(run) {
  const loss = run.rank_by === "val_loss" || run.bits_per_byte == null;
  return loss ? [run.val_loss, "val_loss"] : [run.bits_per_byte, "bits_per_byte"];
}

function measured(run) {
  const [value, metric] = ranked(run);
  if (value == null) return dash();
  return [h("b", {}, number(value, 3)), metric === "val_loss" && h("small", {}, _("validation loss"))];
}

function cluster(run) {
  const keys = run.base_models ?? [];
  if (!keys.length) return dash();
  const names = keys.map((key) => run.display_names?.[key] ?? key).join(", ");
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
  const at = Date.parse(value);
  if (Number.isNaN(at)) return value || NONE;
  const day = fully(value).replace(/[ ,]+\S+$/, "");
  return new Date(at).getFullYear() === new Date().getFullYear() ? moment(value) : day;
}

function drawMore(found) {
  const shown = Math.min(limit, found.length);
  const left = Math.min(PAGE, found.length - shown);
  const nothing = $("#nothing");
  nothing.hidden = found.length > 0;
  nothing.textContent = found.length ? "" : _("No run is like that. Choose another status, or search for less.");
  $("#more").hidden = !found.length;
  const counted =
    shown === runs.length
      ? _n(shown, "{n} run", "{n} runs")
      : _("{n} of {total} runs", { n: number(shown), total: number(runs.length) });
  if ($("#shown").textContent !== counted) $("#shown").textContent = counted;
  $("#show-more").hidden = !left;
  $("#show-more").textContent = _("Show the next {n}", { n: number(left) });
}

function drawPicked() {
  const total = view.picked.length;
  $("#picked").hidden = !total || !runs.length;
  const more = total < 2 ? _("Select one more to compare.") : total >= MOST ? _("Six is the most.") : "";
  const said = $("#picked-said");
  const words = [_n(total, "{n} run selected", "{n} runs selected"), more].join("\n");
  if (said.dataset.words !== words) {
    said.dataset.words = words;
    put(said, h("b", {}, words.split("\n")[0]), more && [" ", h("small", { class: "muted" }, more)]);
  }
  $("#compare-picked").hidden = view.comparing;
  if (total < 2) $("#compare-picked").setAttribute("aria-disabled", "true");
  else $("#compare-picked").removeAttribute("aria-disabled");
}

async function drawCompared() {
  const section = $("#compare");
  section.hidden = !view.comparing || view.picked.length < 2;
  if (section.hidden) return;
  const chosen = view.picked.map((id) => runs.find((run) => run.run_id === id && comparable(run)));
  const missing = view.picked.filter((id, at) => !chosen[at]);
  const { compare } = (await import("./compare.js").catch(failed)) ?? {};
  compare?.($("#compared"), chosen.filter(Boolean), missing);
}
