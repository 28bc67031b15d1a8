// Line charts: HTML around an SVG in percent, so words stay crisp at any width and nothing is computed when the window
// changes. A model has its colour, marker and dash; values are read with the pointer, with arrow keys, or as a table.
import { nearest, notation, onAxis, scaled, thinned } from "./scale.js";
import { _, h, mark, number, put, redraw, series as hue, shape, svg, tell } from "./ui.js";

const MOST_MARKED = 24; // points of a line that get a marker each
const MOST_ROWS = 200; // of the table
const views = new WeakMap();

/** Draw a chart into a <figure>, or bring the one that is there up to date.
 *
 * x: `label` of one place on the axis ("Epoch"), `from` and `to`, and `zero`, what place 0 is called.
 * series: `place` (the model's marker), `name`, `points` [[x, y], …] by rising x; `dead`: why it ends; `raw`: points
 * drawn faintly behind; `marked`: false where only its end gets a marker. better: "lower", "higher" or null.
 * baseline: a y with a line. ticks: the only places on the y axis, which reaches as far as they do. say(y): how a value
 * is written, otherwise with `digits` behind the point. level: of the heading. controls: an element for the header, taken
 * once. */
export function chart(figure, spec) {
  const view = views.get(figure) ?? begun(figure, spec);
  view.spec = spec;
  view.say = spec.say ?? ((value) => number(value, spec.digits ?? 3));
  view.lines = spec.series.map((one) => ({ ...one, points: told(one.points), raw: told(one.raw ?? []) }));
  const drawn = view.lines.some((line) => line.points.length || line.raw.length);
  view.scale = drawn ? scaled(view) : null;
  write(view.title, spec.title);
  write(view.note, spec.note ?? "");
  write(view.empty, drawn ? "" : (spec.empty ?? ""));
  view.empty.hidden = drawn;
  view.asTable.hidden = !drawn;
  if (!drawn) asTable(view, false);
  attribute(view.plot, "aria-label", summary(view));
  axes(view);
  lines(view);
  legend(view);
  if (view.at != null) point(view, view.at);
  if (!view.rows.hidden) table(view);
}

/** Let one line stand out: the place of its model, or null for all alike. */
export function highlight(figure, place) {
  const view = views.get(figure);
  if (!view) return;
  view.only = place;
  for (const line of view.drawn) {
    const away = place != null && line.place !== place;
    for (const element of [line.group, line.marks]) element.classList.toggle("away", away);
  }
}

/** How something went, without axes. points: [[x, y], …]; `old`: the drawing to bring up to date. */
export function spark(points, place, old = null) {
  const box = old ?? svg("svg", { class: `spark ${hue(place)}`, "aria-hidden": "true" }, sparkParts());
  const known = told(points).slice(-60);
  const ys = known.map(([, y]) => y);
  const [low, high] = [Math.min(...ys), Math.max(...ys)];
  const [first, last] = [known[0]?.[0], known.at(-1)?.[0]];
  const across = (x) => (last === first ? 100 : (100 * (x - first)) / (last - first));
  const down = (y) => (high === low ? 50 : 8 + (84 * (high - y)) / (high - low));
  const [inner, end] = box.children;
  attribute(inner.firstChild, "points", known.map(([x, y]) => `${fixed(across(x))},${fixed(down(y))}`).join(" "));
  if (known.length) attribute(end, "cy", `${fixed(down(known.at(-1)[1]))}%`);
  attribute(end, "r", known.length ? 3 : 0);
  return box;
}

// -- what it is made of ---------------------------------------------------------------------------------------------

let count = 0;

function begun(figure, { level = 2, controls }) {
  const id = `chart-${++count}`;
  const view = {
    figure,
    at: null,
    only: null,
    drawn: [],
    title: h(`h${level}`, { id: `${id}-title` }),
    note: h("p"),
    ylab: svg("svg", { class: "ylab", "aria-hidden": "true" }),
    xlab: svg("svg", { class: "xlab", "aria-hidden": "true" }),
    grid: svg("g"),
    inner: svg("svg", {
      viewBox: "0 0 1000 1000",
      preserveAspectRatio: "none",
      width: "100%",
      height: "100%",
      overflow: "visible",
    }),
    marks: svg("g"),
    cursor: svg("g"),
    readout: h("div", { class: "readout", hidden: true, "aria-hidden": "true" }),
    empty: h("p", { class: "chart-empty", hidden: true }),
    legend: h("ul", { class: "legend" }),
    rows: h("div", {
      class: "chart-rows",
      id: `${id}-rows`,
      hidden: true,
      tabindex: "0",
      role: "region",
      "aria-labelledby": `${id}-title`,
    }),
    frame: h("div", { class: "frame" }),
    asTable: h(
      "button",
      { class: "as-table", type: "button", "aria-expanded": "false", "aria-controls": `${id}-rows` },
      _("As a table"),
    ),
  };
  view.plot = svg(
    "svg",
    { class: "plot", role: "img", tabindex: "0", "aria-describedby": `${id}-keys` },
    view.grid,
    view.inner,
    view.marks,
    view.cursor,
  );
  put(view.frame, view.ylab, view.plot, view.readout, view.empty, view.xlab, view.rows);
  figure.classList.add("chart");
  figure.setAttribute("aria-labelledby", `${id}-title`);
  put(
    figure,
    h("header", {}, view.title, h("div", { class: "row" }, view.note, controls)),
    view.frame,
    h("p", { class: "vh", id: `${id}-keys` }, _("Arrow keys read the values.")),
    h("div", { class: "chart-foot" }, view.legend, view.asTable),
  );
  listen(view);
  views.set(figure, view);
  return view;
}

function listen(view) {
  view.plot.addEventListener("pointermove", (event) => {
    if (!view.scale) return;
    const box = view.plot.getBoundingClientRect();
    const { from, to } = view.scale;
    point(view, nearest(places(view), from + ((event.clientX - box.left) / box.width) * (to - from)));
  });
  view.plot.addEventListener("pointerleave", () => leave(view));
  view.plot.addEventListener("blur", () => leave(view));
  view.plot.addEventListener("keydown", (event) => {
    const known = view.scale ? places(view) : [];
    const here = view.at == null ? known.length : known.indexOf(nearest(known, view.at));
    const next = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: known.length - 1 }[event.key];
    if (event.key === "Escape") leave(view);
    if (next === undefined || !known.length) return;
    event.preventDefault();
    point(view, known[Math.max(0, Math.min(known.length - 1, next))]);
    tell(said(view, view.at));
  });
  view.asTable.addEventListener("click", () => asTable(view, view.rows.hidden));
}

/** Show the table where the drawing was, which takes no more room, or the drawing again. */
function asTable(view, wanted) {
  view.rows.hidden = !wanted;
  view.asTable.setAttribute("aria-expanded", wanted);
  if (wanted) table(view);
}

// -- axes -----------------------------------------------------------------------------------------------------------

function axes(view) {
  const { scale, spec } = view;
  const places = scale ? onAxis(scale) : [];
  const ticks = scale?.ticks ?? [];
  const labels = scale ? ticks.map(notation(scale)) : [];
  const key = JSON.stringify([ticks.map((tick) => scale.down(tick)), labels, places, spec.x, spec.baseline]);
  if (key === view.axes) return;
  view.axes = key;
  view.frame.style.setProperty("--label", Math.max(...labels.map((label) => label.length), spec.wide ?? 0));
  const base = scale && spec.baseline != null ? [spec.baseline] : [];
  put(
    view.grid,
    ticks.map((tick) => rule("grid", scale.down(tick))),
    base.map((value) => rule("base", scale.down(value))),
  );
  put(
    view.ylab,
    ticks.map((tick, at) => svg("text", { x: "100%", y: `${fixed(scale.down(tick))}%`, dx: -8, dy: 4 }, labels[at])),
  );
  put(
    view.xlab,
    places.map((x) => {
      const anchor = x === scale.from ? "start" : x === scale.to ? "end" : "middle";
      const text = x === 0 && spec.x.zero ? spec.x.zero : number(x);
      return svg("text", { x: `${fixed(scale.across(x))}%`, y: 18, "text-anchor": anchor }, text);
    }),
  );
}

const rule = (name, y) => svg("line", { class: name, x1: 0, x2: "100%", y1: `${fixed(y)}%`, y2: `${fixed(y)}%` });

// -- lines ----------------------------------------------------------------------------------------------------------

function lines(view) {
  const { scale } = view;
  const known = JSON.stringify(view.lines.map(({ place, name }) => [place, name]));
  if (known !== view.known) {
    view.known = known;
    view.drawn = view.lines.map(({ place }) => {
      const raw = svg("polyline", { class: "ln faint" });
      const line = svg("polyline", { class: "ln dashed" });
      const group = svg("g", { class: hue(place) }, raw, line);
      return { place, raw, line, group, marks: svg("g", { class: hue(place) }), marked: "" };
    });
    put(
      view.inner,
      view.drawn.map((line) => line.group),
    );
    put(
      view.marks,
      view.drawn.map((line) => line.marks),
    );
    highlight(view.figure, view.only);
  }
  view.lines.forEach((line, index) => {
    const drawn = view.drawn[index];
    attribute(drawn.raw, "points", scale ? path(line.raw, scale) : "");
    attribute(drawn.line, "points", scale ? path(line.points, scale) : "");
    marks(drawn, line, scale);
  });
}

const path = (points, { across, down }) =>
  thinned(points)
    .map(([x, y]) => `${(10 * across(x)).toFixed(1)},${(10 * down(y)).toFixed(1)}`)
    .join(" ");

/** A marker on each point, or only on the last of many; a cross behind the last of what is dead. */
function marks(drawn, line, scale) {
  const shown = scale
    ? line.marked === false || line.points.length > MOST_MARKED
      ? line.points.slice(-1)
      : line.points
    : [];
  const places = shown.map(([x, y]) => [fixed(scale.across(x)), fixed(scale.down(y))]);
  const key = JSON.stringify([places, line.dead]);
  if (key === drawn.marked) return;
  drawn.marked = key;
  put(
    drawn.marks,
    places.map(([x, y], index) => {
      const size = index === places.length - 1 ? 12 : 7;
      const use = { href: `#m-${shape(line.place)}`, x: -size / 2, y: -size / 2, width: size, height: size };
      return svg("svg", { class: "pt", x: `${x}%`, y: `${y}%`, overflow: "visible" }, svg("use", use));
    }),
    line.dead != null && places.length && cross(places.at(-1), line.dead),
  );
}

function cross([x, y], cause) {
  const end = x > 60; // the words go where there is room
  return svg(
    "svg",
    { x: `${x}%`, y: `${y}%`, overflow: "visible" },
    svg("path", { class: "ring", d: "m-4-4 8 8m0-8-8 8", transform: "translate(15 0)" }),
    svg(
      "text",
      { class: "dead", x: end ? -12 : 26, dy: end ? -10 : 4, "text-anchor": end ? "end" : "start" },
      brief(cause),
    ),
  );
}

/** Why a line ends, in the two words that there is room for. cause: in the run's own words, which the leaderboard has. */
function brief(cause) {
  const [, value, step] = / became (-?\w+) in .*step ([\d,]+)/.exec(cause) ?? [];
  if (value) return value === "nan" ? _("NaN, step {n}", { n: step }) : _("infinite, step {n}", { n: step });
  if (/memory/i.test(cause)) return _("out of memory");
  return cause.length > 32 ? _("quarantined") : cause.replace(/\.$/, "");
}

function legend(view) {
  if (view.keyed === view.known) return;
  view.keyed = view.known;
  put(
    view.legend,
    view.lines.map(({ place, name }) =>
      h(
        "li",
        {
          onpointerenter: () => highlight(view.figure, place),
          onpointerleave: () => highlight(view.figure, null),
        },
        key(place),
        name,
      ),
    ),
  );
}

function key(place) {
  const drawn = mark(place);
  for (const [name, value] of Object.entries({ x: 8, y: 1, width: 10, height: 10 })) drawn.setAttribute(name, value);
  return svg(
    "svg",
    { class: `key ${hue(place)}`, viewBox: "0 0 26 12", "aria-hidden": "true" },
    svg("line", { x1: 0, x2: 26, y1: 6, y2: 6 }),
    drawn,
  );
}

// -- reading values -------------------------------------------------------------------------------------------------

/** All x that some line has, rising. */
const places = (view) => [...new Set(view.lines.flatMap((line) => line.points.map(([x]) => x)))].sort((a, b) => a - b);

/** What each line is worth at x, best first: lines whose points are elsewhere are told by their nearest, unless that is
 * far away. */
function valuesAt(view, x) {
  const far = (view.scale.to - view.scale.from) / 50;
  const found = view.lines.flatMap((line) => {
    const near = nearest(line.points, x, ([at]) => at);
    return near && Math.abs(near[0] - x) <= far ? [{ line, value: near[1] }] : [];
  });
  return found.sort((a, b) => (view.spec.better === "lower" ? a.value - b.value : b.value - a.value));
}

function point(view, x) {
  if (x === undefined || !view.scale) return;
  view.at = x;
  const { across, down } = view.scale;
  const values = valuesAt(view, x);
  const left = `${fixed(across(x))}%`;
  put(
    view.cursor,
    svg("line", { class: "cross", x1: left, x2: left, y1: 0, y2: "100%" }),
    values.map(({ line, value }) =>
      svg("circle", { class: `ring ${hue(line.place)}`, cx: left, cy: `${fixed(down(value))}%`, r: 5 }),
    ),
  );
  put(
    view.readout,
    h("b", {}, named(view, x)),
    values.map(({ line, value }) =>
      h("p", {}, mark(line.place), h("span", {}, line.name), h("b", {}, view.say(value))),
    ),
  );
  view.readout.hidden = !values.length;
  view.readout.classList.toggle("flip", across(x) > 55);
  view.readout.style.setProperty("--at", left);
}

function leave(view) {
  view.at = null;
  view.readout.hidden = true;
  put(view.cursor);
}

const named = ({ spec }, x) => (x === 0 && spec.x.zero ? spec.x.zero : `${spec.x.label} ${number(x, x % 1 ? 2 : 0)}`);

const said = (view, x) =>
  `${named(view, x)}: ${valuesAt(view, x)
    .map(({ line, value }) => `${line.name} ${view.say(value)}`)
    .join(", ")}`;

/** What the picture shows, in a sentence. */
function summary(view) {
  const ends = view.lines.flatMap(({ name, points, dead }) =>
    points.length ? [`${name} ${view.say(points.at(-1)[1])}${dead == null ? "" : ` (${brief(dead)})`}`] : [],
  );
  return `${view.spec.title}. ${ends.join(", ") || (view.spec.empty ?? "")}`;
}

function table(view) {
  const { title, x: axis } = view.spec;
  const all = view.scale ? places(view) : [];
  const every = Math.ceil(all.length / MOST_ROWS) || 1;
  const shown = all.filter((_x, index) => index % every === 0 || index === all.length - 1);
  const names = view.lines.map((line) => line.name);
  const rows = shown.map((x) => {
    const values = new Map(valuesAt(view, x).map(({ line, value }) => [line, value]));
    const place = x === 0 && axis.zero ? axis.zero : number(x, x % 1 ? 2 : 0);
    return [place, view.lines.map((line) => view.say(values.get(line)))];
  });
  const row = ([place, values]) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, place),
      values.map((value) => h("td", { class: "num" }, value)),
    );
  // Who reads it keeps the place: a run that goes on draws its charts every second.
  redraw(view.rows, [title, axis.label, names, rows], () =>
    h(
      "table",
      { class: "table" },
      h("caption", { class: "vh" }, title),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          head("", axis.label),
          names.map((name) => head("num", name)),
        ),
      ),
      h("tbody", {}, rows.map(row)),
    ),
  );
}

const head = (name, text) => h("th", { scope: "col", class: name || null }, text);

// -- small things ---------------------------------------------------------------------------------------------------

const HUGE = 1e300; // differences of larger numbers are none
const told = (points) => points.filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y) && Math.abs(y) < HUGE);
const fixed = (value) => Number(value.toFixed(2));

const sparkParts = () => [
  svg(
    "svg",
    { viewBox: "0 0 100 100", preserveAspectRatio: "none", width: "100%", height: "100%", overflow: "visible" },
    svg("polyline"),
  ),
  svg("circle", { cx: "100%", r: 3 }),
];

/** Setting what is set already would still be work for the browser. */
function attribute(element, name, value) {
  if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
