// How far a run is: percent, epochs, time left, the countdown of auto-stop, and downloads before it begins.
import { $, _, _n, about, bytes, clock, duration, h, mark, moment, number, plain, put, svg } from "./ui.js";
import { secondsLeft, trained } from "./course.js";
import { HALTED, OVER } from "./standing.js";

const MOST_BARS = 12; // epochs with a bar of their own
const MOST_TICKS = 60;
const MOST_PARTS = 12; // of the dial
let drawn = {}; // what the elements were made for

/** Bring the strip above the leaderboard up to date. config: the run's settings, null where nobody knows them. */
export function draw(course, config, display) {
  const shown = display.show_progress !== false;
  $("#far").hidden = !shown;
  if (shown) far(course);
  countdown(course, config);
  downloads(course);
}

function far(course) {
  const share = Math.min(1, Math.max(0, (course.percent / 100) * course.total - course.done));
  write("#percent", `${number(Math.floor(course.percent))} %`);
  write("#when", when(course));
  const bars = course.total <= MOST_BARS;
  if (drawn.total !== course.total) {
    drawn.total = course.total;
    put($("#epochs"), bars ? Array.from({ length: course.total }, (_each, at) => epoch(at + 1, course.total)) : []);
    $("#epochs").style.setProperty("--count", course.total);
    $("#epochs").hidden = !bars;
    $("#all-epochs").hidden = bars;
    if (!bars) put($("#ticks"), ticks(course.total));
  }
  const now = ["training", "stopping"].includes(course.status) && !trained(course) ? course.done + 1 : 0;
  if (!bars) {
    $("#all-epochs progress").value = course.percent / 100;
    write("#epoch-now", now ? _("Epoch {n} of {total}", { n: number(now), total: number(course.total) }) : "");
    return;
  }
  for (const [at, row] of [...$("#epochs").children].entries()) {
    const value = at < course.done ? 1 : at === course.done ? share : 0;
    if (row.firstChild.value !== value) row.firstChild.value = value;
    row.classList.toggle("now", at + 1 === now);
  }
}

const epoch = (n, total) =>
  h(
    "li",
    {},
    h("progress", { max: 1, value: 0, "aria-label": _("Epoch {n}", { n: number(n) }) }),
    h(
      "span",
      { "aria-hidden": "true" },
      total <= 6 ? _("Epoch {n}", { n: number(n) }) : number(n),
      h("i", { class: "is-now" }, ` · ${_("now")}`),
    ),
  );

function ticks(total) {
  const step = [1, 5, 10, 50, 100, 500, 1000, 5000, 10_000].find((each) => total / each <= MOST_TICKS) ?? total;
  const at = Array.from(
    { length: Math.ceil(total / step) - 1 },
    (_each, place) => `${(100 * step * (place + 1)) / total}%`,
  );
  return at.map((x) => svg("line", { x1: x, x2: x, y1: 0, y2: 8 }));
}

function when(course) {
  const left = secondsLeft(course);
  const today = new Date(course.startedAt).toDateString() === new Date().toDateString();
  const time = today ? clock(course.startedAt, { seconds: false }) : moment(course.startedAt);
  const parts = [
    _n(course.total, "{done} of {n} epoch", "{done} of {n} epochs", { done: number(course.done) }),
    left == null ? "" : _("{time} left", { time: about(left) }),
    course.startedAt && (course.begun ? _("started {time}", { time }) : _("asked for {time}", { time })),
  ];
  return parts.filter(Boolean).join(" · ");
}

// -- auto-stop ------------------------------------------------------------------------------------------------------

function countdown(course, config) {
  const rule = config?.confidence_auto_stop;
  const told = course.autoStop;
  const off = rule ? !rule.enabled : told != null && told.remaining == null;
  const remaining = off || course.outside ? null : (told?.remaining ?? rule?.patience ?? null);
  const parts = rule?.patience ?? Math.max(drawn.patience ?? 0, remaining ?? 0);
  drawn.patience = parts;
  const said = sentence({ course, off, remaining, threshold: told?.threshold ?? rule?.threshold });
  $(".autostop").classList.toggle("silent", !said); // its place is kept
  $(".autostop").hidden = course.status === "failed"; // what to do about that comes first
  write("#stops", said);
  write("#stops-more", more(course, off ? null : rule));
  const key = `${off} ${remaining} ${parts} ${course.triggered}`;
  if (drawn.dial === key) return;
  drawn.dial = key;
  put($("#dial"), dial(remaining, parts));
}

function sentence({ course, off, remaining, threshold }) {
  if (course.outside) return _("Whether it stops by itself is up to the program that trains it.");
  if (course.triggered) return _("Auto-stop ended it: nothing more was learned.");
  if (off) return _("Auto-stop is off: every epoch is trained.");
  if (remaining == null) return "";
  if (OVER.includes(course.status)) return _("Auto-stop was on, and had no reason to end it.");
  const metric = course.rankBy === "val_loss" ? _("the validation loss") : _("bits per byte");
  const values = { metric, threshold: plain(threshold) };
  if (HALTED.includes(course.status)) {
    return _n(
      remaining,
      "Once resumed, it stops in {n} epoch unless {metric} moves by {threshold}",
      "Once resumed, it stops in {n} epochs unless {metric} moves by {threshold}",
      values,
    );
  }
  return _n(
    remaining,
    "Stops in {n} epoch unless {metric} moves by {threshold}",
    "Stops in {n} epochs unless {metric} moves by {threshold}",
    values,
  );
}

function more(course, rule) {
  const change = course.autoStop?.current_change;
  return [
    change == null ? "" : _("Last change {change}.", { change: number(change, 4) }),
    rule && course.done < rule.min_epochs ? _("Never before epoch {n}.", { n: number(rule.min_epochs) }) : "",
  ]
    .filter(Boolean)
    .join(" ");
}

/** A ring in as many parts as flat epochs end the run; those that are left are filled. */
function dial(remaining, parts) {
  const count = Math.min(parts, MOST_PARTS) || 1;
  const left = parts ? Math.round(((remaining ?? 0) * count) / parts) : 0;
  const gap = count > 1 ? 3 : 0;
  return [
    svg("circle", { class: "bg", cx: 22, cy: 22, r: 19 }),
    Array.from({ length: left }, (_each, part) =>
      svg("circle", {
        class: "fg",
        cx: 22,
        cy: 22,
        r: 19,
        pathLength: 100,
        "stroke-dasharray": `${100 / count - gap} ${100 - 100 / count + gap}`,
        "stroke-dashoffset": -(part * 100) / count - gap / 2,
        transform: "rotate(-90 22 22)",
      }),
    ),
    svg("text", { x: 22, y: 27.5 }, remaining == null ? "–" : number(remaining)),
  ];
}

// -- downloads ------------------------------------------------------------------------------------------------------

function downloads(course) {
  const list = $("#downloads");
  const coming = course.status === "preparing" ? course.models.filter((model) => model.download) : [];
  list.hidden = !coming.length;
  const key = coming.map((model) => model.key).join(" ");
  if (drawn.downloads !== key) {
    drawn.downloads = key;
    put(list, coming.map(download));
  }
  for (const [at, { download: told }] of coming.entries()) {
    const [bar, text] = [list.children[at].children[2], list.children[at].lastChild];
    bar.value = told.total_bytes ? told.done_bytes / told.total_bytes : 0;
    const said = amount(told);
    if (text.textContent !== said) text.textContent = said;
  }
}

const download = ({ name, place }) =>
  h(
    "li",
    {},
    mark(place),
    h("b", {}, name),
    h("progress", { max: 1, value: 0, "aria-label": _("Download of {name}", { name }) }),
    h("span", { class: "muted" }),
  );

function amount({ done_bytes, total_bytes, bytes_per_second, seconds_left }) {
  const parts = [
    `${bytes(done_bytes)} / ${bytes(total_bytes)}`,
    bytes_per_second ? `${bytes(bytes_per_second)}/s` : "",
    seconds_left == null ? "" : _("{time} left", { time: duration(seconds_left) }),
  ];
  return parts.filter(Boolean).join(" · ");
}

function write(selector, text) {
  const element = $(selector);
  if (element.textContent !== text) element.textContent = text;
}
