// How long the rows of a dataset are: a strip of numbers and a histogram, as each base model counts tokens.
import { $, LONG, _, _n, by, count, failure, get, h, icon, mark, number, put, svg } from "./ui.js";

const PAUSE = 250; // milliseconds without another change before rows are counted anew
const WIDEST = 9; // labels below the bars

/** What rows of a format are called, and how long one is. */
const rowsOf = (format) => NOUNS()[format] ?? [_("Rows"), _("Length of a row")];

const NOUNS = () => ({
  messages: [_("Chats"), _("Length of a chat")],
  sharegpt: [_("Chats"), _("Length of a chat")],
  text: [_("Texts"), _("Length of a text")],
  preference: [_("Pairs"), _("Length of a pair")],
  preference_chat: [_("Pairs"), _("Length of a pair")],
  preference_sharegpt: [_("Pairs"), _("Length of a pair")],
});

/** Lengths that are drawn into `element`. `ask(dataset, models, maxLength)` counts after a moment, the latest question
 * wins: `dataset` as GET /api/datasets has it, `models` a list of {key, name, place, context},
 * `maxLength` in tokens or null for the server's own. What is there stays until the answer comes. */
export function lengthsIn(element, { hint }) {
  const state = { question: "", key: null, timer: 0, asking: null };

  function ask(dataset, models, maxLength) {
    const question = JSON.stringify([dataset.sha256, models, maxLength]);
    if (question === state.question) return;
    const first = !state.question.includes(dataset.sha256);
    state.question = question;
    clearTimeout(state.timer);
    state.asking?.abort();
    element.setAttribute("aria-busy", "true");
    if (first) put(element, waiting(dataset));
    state.timer = setTimeout(() => counted(dataset, models, maxLength), first ? 0 : PAUSE);
  }

  async function counted(dataset, models, maxLength) {
    const mine = (state.asking = new AbortController());
    try {
      const told = await answered(dataset, models, maxLength, mine.signal);
      draw({ dataset, models, told });
    } catch (error) {
      if (error.name === "AbortError") return;
      state.question = ""; // it may be asked again
      put(
        element,
        failure(error, () => ask(dataset, models, maxLength)),
      );
    }
    element.removeAttribute("aria-busy");
  }

  function draw(shown) {
    const { dataset, models, told } = shown;
    const known = models.filter(({ key }) => by(told.models, key) || by(told.unusable, key));
    const model =
      known.find(({ key }) => key === state.key) ?? known.find(({ key }) => by(told.models, key)) ?? known[0];
    const choose = (key) => {
      state.key = key;
      draw(shown);
      $(`input[value="${CSS.escape(key)}"]`, element)?.focus();
    };
    put(
      element,
      strip(dataset, told, model),
      h("div", { class: "lengths" }, heading(dataset, known, model, choose), picture(dataset, told, model, hint)),
    );
  }

  return { ask };
}

/** The lengths as the API tells them. */
function answered(dataset, models, maxLength, signal) {
  const query = new URLSearchParams({
    baseModels: models.map(({ key }) => key).join(","),
    ...(maxLength && { maxLength }),
  });
  return get(`/api/datasets/${dataset.sha256}/statistics?${query}`, { signal, patience: LONG });
}

const waiting = (dataset) => [
  h("dl", { class: "stats" }, stat(rowsOf(dataset.format)[0], number(dataset.rows))),
  h(
    "div",
    { class: "lengths" },
    h("h3", {}, rowsOf(dataset.format)[1]),
    h("div", { class: "hist none" }, h("p", { class: "muted" }, _("Counting…"))),
  ),
];

// -- the numbers -----------------------------------------------------------------------------------------------------

function strip(dataset, told, model) {
  const counted = by(told.models, model?.key);
  const { median, p95, max } = counted?.tokens ?? told.characters;
  const unit = counted ? _("tokens") : _("characters");
  return h(
    "dl",
    { class: "stats" },
    stat(rowsOf(dataset.format)[0], number(dataset.rows)),
    counted ? stat(_("Learned"), count(counted.supervised), unit) : stat(_("Longest"), number(max), unit),
    stat(_("Median"), number(Math.round(median)), unit),
    stat(_("95th percentile"), number(p95), unit),
  );
}

const stat = (name, value, unit = "") =>
  h("div", {}, h("dt", {}, name), h("dd", {}, value, unit && [" ", h("small", {}, unit)]));

// -- the picture -----------------------------------------------------------------------------------------------------

function heading(dataset, models, model, choose) {
  const [, title] = rowsOf(dataset.format);
  const chips = models.map(({ key, name, place }) =>
    h(
      "label",
      { class: "chip" },
      h("input", {
        type: "radio",
        name: "counts-tokens",
        value: key,
        checked: key === model.key,
        onchange: () => choose(key),
      }),
      place != null && mark(place),
      name,
    ),
  );
  return h(
    "div",
    { class: "lengths-head" },
    h(
      "h3",
      { id: "hist-t" },
      title,
      " ",
      model && models.length === 1 && h("span", { class: "muted" }, _("in tokens of {model}", { model: model.name })),
    ),
    models.length > 1 &&
      h("fieldset", { class: "chips" }, h("legend", { class: "vh" }, _("Tokens are counted by")), chips),
  );
}

function picture(dataset, told, model, hint) {
  const counted = by(told.models, model?.key);
  if (!counted) {
    const why = by(told.unusable, model?.key);
    return h(
      "div",
      { class: "hist none" },
      why
        ? h("p", {}, icon("ban"), h("span", {}, why.problem, " ", h("span", { class: "muted" }, why.fix)))
        : note(hint),
    );
  }
  if (!counted.tokens.rows)
    return h("div", { class: "hist none" }, note(_("No row can be counted.")), remarks(counted));
  const limit = Math.min(counted.max_length, model.context ?? Infinity); // what is longer is cut
  const bins = binned(counted, limit);
  return [histogram(bins, counted, model, limit), table(bins, model), remarks(counted)];
}

const note = (text) => h("p", { class: "muted" }, text);

/** The bins that are worth drawing: those with rows, one empty one on each side, and the limit's where it is near. Each
 * has `from` and `to` (tokens, `to` is the next one's `from`), `rows`, and how many of them are `cut`. */
function binned({ histogram: all, truncated }, limit) {
  const whole = all.map(({ at_least: from, rows }, place) => ({
    from,
    rows,
    to: all[place + 1]?.at_least ?? Infinity,
  }));
  const first = whole.findIndex(({ rows }) => rows);
  const last = whole.findLastIndex(({ rows }) => rows);
  const limited = whole.findIndex(({ from, to }) => from <= limit && limit < to);
  const end = limited > last && limited <= last + 2 ? limited : last + 1;
  // All rows of a bin above the limit are cut; of the limit's own bin as many as are left of those that the server told.
  const above = whole.reduce((sum, { from, rows }) => (from > limit ? sum + rows : sum), 0);
  for (const bin of whole) {
    bin.cut = bin.from > limit ? bin.rows : bin.to > limit ? Math.min(bin.rows, Math.max(0, truncated - above)) : 0;
  }
  return whole.slice(Math.max(0, first - 1), end + 1);
}

function histogram(bins, { tokens, truncated, max_length: asked }, { name }, limit) {
  const most = Math.max(...bins.map(({ rows }) => rows));
  const wide = 100 / bins.length;
  const line = limitLine(bins, { truncated, limit, asked });
  const tall = (rows) => ((line ? 70 : 86) * rows) / most; // the line has two lines of words beside it
  const bars = bins.flatMap(({ from, to, rows, cut }, place) => {
    const kept = rows - cut;
    const box = { x: share(place * wide + wide * 0.04), width: share(wide * 0.92), rx: 1.5 };
    const least = (value) => (value && Math.max(0.8, tall(value))) || 0; // one row among thousands is still to be seen
    return [
      kept > 0 && svg("rect", { ...box, class: "b", y: share(100 - least(kept)), height: share(least(kept)) }),
      cut > 0 &&
        svg("rect", {
          ...box,
          class: "b over",
          y: share(100 - (kept && least(kept)) - least(cut)),
          height: share(least(cut)),
        }),
      svg(
        "rect",
        { class: "hit", x: share(place * wide), width: share(wide), y: 0, height: "100%" },
        svg("title", {}, saidOf({ from, to, rows, cut })),
      ),
    ];
  });
  const said = _(
    "Tokens a row as {model} counts: half of the rows have {median} or fewer, 95 % at most {p95}, the longest {max}.",
    {
      model: name,
      median: number(tokens.median),
      p95: number(tokens.p95),
      max: number(tokens.max),
    },
  );
  return h(
    "figure",
    { class: "hist" },
    svg(
      "svg",
      { role: "img", "aria-label": `${said} ${cutting(truncated, limit)}` },
      bars,
      line ?? svg("text", { x: "100%", y: 11, "text-anchor": "end" }, cutting(truncated, limit)),
      svg("line", { class: "axis", x1: 0, x2: "100%", y1: "100%", y2: "100%" }),
    ),
    svg("svg", { "aria-hidden": "true" }, edges(bins)),
  );
}

/** The limit's line with how many rows it cuts; null where it is not among the bins. */
function limitLine(bins, { truncated, limit, asked }) {
  const place = bins.findIndex(({ from, to }) => from <= limit && limit < to);
  if (place < 0) return null;
  const { from, to } = bins[place];
  const at = (100 / bins.length) * (place + (to === Infinity ? 0 : (limit - from) / (to - from)));
  const side = at > 60 ? { x: share(at - 1), "text-anchor": "end" } : { x: share(at + 1) };
  const named =
    limit < asked ? _("{limit}, its context", { limit: number(limit) }) : _("{limit} limit", { limit: number(limit) });
  return [
    svg("line", { x1: share(at), x2: share(at), y1: 0, y2: "100%" }),
    svg("text", { ...side, class: "lim", y: 11 }, named),
    svg("text", { ...side, y: 27 }, truncated ? _n(truncated, "{n} is cut", "{n} are cut") : _("None is cut")),
  ];
}

const cutting = (truncated, limit) =>
  truncated
    ? _n(truncated, "{n} row is cut at {limit} tokens.", "{n} rows are cut at {limit} tokens.", {
        limit: number(limit),
      })
    : _("None is cut at {limit} tokens.", { limit: number(limit) });

/** Where bins begin: they get wider to the right, so their edges are what is named. */
function edges(bins) {
  const values = [...bins.map(({ from }) => from), bins.at(-1).to];
  const step = Math.ceil(values.length / WIDEST);
  return values.map((value, place) => {
    if (value === Infinity || place % step) return null;
    const anchor = place === 0 ? "start" : place === values.length - 1 ? "end" : "middle";
    return svg("text", { x: share((100 / bins.length) * place), y: 16, "text-anchor": anchor }, number(value));
  });
}

const share = (value) => `${value.toFixed(2)}%`;

function saidOf({ from, to, rows, cut }) {
  const said = _n(rows, "{reach} tokens: {n} row", "{reach} tokens: {n} rows", { reach: reach(from, to) });
  return cut ? `${said}, ${_n(cut, "{n} is cut", "{n} are cut")}` : said;
}

function table(bins, { name }) {
  const columns = [_("Tokens"), _("Rows"), _("Cut")];
  const row = ({ from, to, rows, cut }) =>
    h("tr", {}, h("th", { scope: "row" }, reach(from, to)), h("td", {}, number(rows)), h("td", {}, number(cut)));
  const content = h(
    "table",
    {},
    h("caption", {}, _("Rows by their length in tokens of {model}", { model: name })),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        columns.map((text) => h("th", { scope: "col" }, text)),
      ),
    ),
    h("tbody", {}, bins.map(row)),
  );
  return h("div", { class: "vh" }, content); // a table itself does not get as small as nothing
}

const reach = (from, to) => (to === Infinity ? `${number(from)}–` : `${number(from)}–${number(to - 1)}`);

/** What else the rows meet at this base model. */
function remarks({ unlearnable, refused, refusals, unmeasured }) {
  const told = [
    unlearnable && [
      _n(
        unlearnable,
        "{n} row has nothing left to learn once it is cut.",
        "{n} rows have nothing left to learn once they are cut.",
      ),
    ],
    refused && [
      _n(refused, "{n} row is not taken by the chat template.", "{n} rows are not taken by the chat template."),
      " ",
      refusals.map(({ line, reason }) => _("Line {line}: {reason}", { line: number(line), reason })).join("; "),
    ],
    unmeasured && [
      _n(unmeasured, "{n} row was not counted: it takes too long.", "{n} rows were not counted: it takes too long."),
    ],
  ];
  return told.filter(Boolean).map((texts) => h("p", { class: "msg" }, icon("warn", "warn"), h("span", {}, texts)));
}
