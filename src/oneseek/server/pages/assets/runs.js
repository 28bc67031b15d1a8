// All runs: filtered, searched, selected and compared. What is filtered and selected stands in the address.

import { $, _, _n, clock, failure, get, h, icon, number, part, put, redraw } from "./ui.js";
import { comparable, line } from "./listing.js";
import { GOING, kind } from "./standing.js";

const PAGE = 50;
const PERIOD = 5000; // ms between two looks while something runs
const MOST = 6; // runs compared at once: as many as there are colours

let runs = null; // null as long as the server has told none
let waiting = new Map(); // place in the queue by run id, 0 is next
let limit = PAGE;
let view = read();
let timer = 0;
let asking = false;
let told = null; // when the runs shown were told
const lines = new Map(); // of the table, by run id and whether it can be compared

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
  const goesOn = problem || runs.some((run) => GOING.includes(run.status));
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
  ["completed", "tree", _("Not in the ledger yet"), ["completed"]],
  ["stopped", "stop", _("Stopped"), ["stopped"]],
  ["interrupted", "warn", _("Interrupted"), ["interrupted"]],
  ["failed", "err", _("Failed"), ["failed"]],
  ["damaged", "err", _("Damaged"), ["damaged"]],
  ["elsewhere", "check", _("Trained elsewhere"), ["elsewhere"]],
  ["old", "folder", _("Old system"), ["old"]],
];

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
    if (!lines.has(key)) lines.set(key, line(run));
    const drawn = lines.get(key);
    drawn.update(run, { picked: view.picked.includes(run.run_id), full, waits: waiting.get(run.run_id) });
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

function drawMore(found) {
  const shown = Math.min(limit, found.length);
  const left = Math.min(PAGE, found.length - shown);
  const nothing = $("#nothing");
  nothing.hidden = found.length > 0;
  nothing.textContent = found.length ? "" : _("No run matches. Choose another status, or search for less.");
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
  redraw($("#picked-said"), [total, more], () => [
    h("b", {}, _n(total, "{n} run selected", "{n} runs selected")),
    more && [" ", h("small", { class: "muted" }, more)],
  ]);
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
  const module = await part(import("./compare.js"));
  module?.compare($("#compared"), chosen.filter(Boolean), missing);
}
