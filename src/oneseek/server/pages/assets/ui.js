// What every page is made of: elements, words, numbers, the API, and the bar at the top.
// Nothing here takes markup: whatever a name or a dataset says stays text.

const root = document.documentElement;
/** Of the page: "en" or "sv". */
export const language = root.lang;

// -- words ----------------------------------------------------------------------------------------------------------

/** A text, its {names} replaced by values. Write it as one literal in double quotes: the server puts the Swedish one
 * there in modules that it sends to a Swedish page. */
export const _ = (text, values = {}) => text.replace(/\{(\w+)\}/g, (all, name) => apart(String(values[name] ?? all)));

/** A value whose direction turns nothing around it: names may be Arabic, or hold characters that turn what follows. */
const apart = (value) =>
  TURNS.test(value) ? `\u2068${value.replace(/[\u202a-\u202e\u2066-\u2069]/g, "")}\u2069` : value;
const TURNS = /[\u0590-\u08ff\u200f\u202a-\u202e\u2066-\u2069\ufb1d-\ufdff\ufe70-\ufefc]/;

/** `one` or `many` by a count, which both call {n}. */
export const _n = (count, one, many, values = {}) => _(count === 1 ? one : many, { n: number(count), ...values });

// -- elements -------------------------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";
/** The first element that a selector means, or null; `$$`: all of them as a list. */
export const $ = (selector, within = document) => within.querySelector(selector);
export const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

/** An element; `svg`: one of a drawing. Attributes that are false or null are left out, `on...` are listeners; children
 * are elements, texts, lists of them, and nothing. */
export const h = (tag, attributes, ...children) => filled(document.createElement(tag), attributes, children);
export const svg = (tag, attributes, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

/** An icon of `icons.svg`, for the eye only; `tone`: good, warn, bad or nothing. */
export const icon = (name, tone = "") =>
  svg("svg", { class: `i ${tone}`.trim(), "aria-hidden": "true" }, svg("use", { href: `#i-${name}` }));

/** The marker of a model: shape and colour by its place in the selection, from 0. A seventh is like the first in
 * colour, with another shape. */
export const mark = (place) =>
  svg(
    "svg",
    { class: `mk ${series(place)}`, viewBox: "0 0 12 12", "aria-hidden": "true" },
    svg("use", { href: `#m-${shape(place)}` }),
  );
/** The class of a model's colour, and the number of its shape, by its place. */
export const series = (place) => `s${(place % 6) + 1}`;
export const shape = (place) => ((place + Math.floor(place / 6)) % 6) + 1;

/** A word with an icon; `tone`: good, warn, bad, accent or nothing. */
export const badge = (tone, name, text) => h("span", { class: `badge ${tone}`.trim() }, name && icon(name), text);

/** What a run's status is called, with icon and tone. */
export function status(name) {
  const [tone, drawing, text] = STATUSES()[name] ?? ["", "info", name];
  return badge(tone, drawing, text);
}

const STATUSES = () => ({
  queued: ["", "clock", _("Queued")],
  preparing: ["accent", "down", _("Preparing")],
  training: ["accent", "bolt", _("Training")],
  stopping: ["warn", "hour", _("Stopping")],
  stopped: ["warn", "stop", _("Stopped")],
  interrupted: ["warn", "warn", _("Interrupted")],
  failed: ["bad", "err", _("Failed")],
  damaged: ["bad", "err", _("Damaged")],
  completed: ["warn", "tree", _("Not in the ledger yet")],
  certified: ["good", "seal", _("Certified")],
});

/** What a format of datasets is called. */
export const formatName = (format) => FORMATS()[format] ?? format;

const FORMATS = () => ({
  messages: _("Chats"),
  sharegpt: _("Chats (ShareGPT)"),
  text: _("Plain text"),
  prompt_completion: _("Prompts and answers"),
  alpaca: _("Instructions (Alpaca)"),
  preference: _("Preferences"),
  preference_chat: _("Preferences (chats)"),
  preference_sharegpt: _("Preferences (ShareGPT)"),
});

// -- numbers --------------------------------------------------------------------------------------------------------

const locale = language === "sv" ? "sv-SE" : "en-GB";
const formats = new Map();

function format(kind, options) {
  const key = JSON.stringify([kind.name, options]);
  if (!formats.has(key)) formats.set(key, new kind(locale, options));
  return formats.get(key);
}

/** What stands for a value that there is none of. */
export const NONE = "–";

/** A number with as many digits behind the point as asked for, unless it is too large to need them or so small that none
 * of them would count; a dash where there is none. */
export function number(value, digits = 0) {
  if (value == null || !Number.isFinite(value)) return NONE;
  const size = Math.abs(value);
  if (digits && size && (size >= 1e6 || size < 0.5 * 10 ** -digits)) return small(value);
  const options = { minimumFractionDigits: digits, maximumFractionDigits: digits, signDisplay: "negative" };
  return format(Intl.NumberFormat, options).format(value);
}

/** A number with all the digits that it has, as engineers write it: 1.3, 0.05, 5e-4, 2e12. */
export function plain(value) {
  if (value == null || !Number.isFinite(value)) return NONE;
  const size = Math.abs(value);
  if (!size || (size >= 0.001 && size < 1e6)) return number(value, (String(value).split(".")[1] ?? "").length);
  const [digits, power] = value.toExponential().split("e");
  return `${plain(Number(digits))}e${Number(power)}`;
}

/** The same with the three digits that count of a learning rate: 1.25e-5. */
export const small = (value) => plain(value == null ? value : Number(value.toPrecision(3)));

/** A share of 1. */
export const percent = (share, digits = 0) => (share == null ? NONE : `${number(share * 100, digits)} %`);

/** Bytes in units of 1,000. */
export function bytes(count) {
  if (count == null) return NONE;
  const [value, place] = thousands(count);
  return `${number(value, place && value < 100 ? 1 : 0)} ${["B", "kB", "MB", "GB", "TB"][place]}`;
}

/** Parameters and the like: 8.03 B, 521 k. */
export function count(value) {
  if (value == null) return NONE;
  const [scaled, place] = thousands(value);
  return `${number(scaled, !place ? 0 : scaled < 10 ? 2 : scaled < 100 ? 1 : 0)} ${["", "k", "M", "B", "T"][place]}`.trim();
}

/** A number scaled to less than 1,000 as it is written, and how often it was divided. */
function thousands(value) {
  let place = 0;
  while (place < 4 && value >= (place ? 999.5 : 1000)) [value, place] = [value / 1000, place + 1];
  return [value, place];
}

/** Seconds as people say them: 45 s, 1 min 6 s, 12 min, 1 h 48 min. */
export function duration(seconds) {
  if (seconds == null || !Number.isFinite(seconds)) return NONE;
  const whole = Math.round(seconds);
  if (whole < 1) return _("under 1 s");
  if (whole < 60) return `${number(whole)} s`;
  if (whole < 600) return `${number(Math.floor(whole / 60))} min ${whole % 60 ? `${whole % 60} s` : ""}`.trim();
  const minutes = Math.round(seconds / 60);
  return minutes < 100 ? `${number(minutes)} min` : `${number(Math.floor(minutes / 60))} h ${minutes % 60} min`;
}

/** The same of what is only roughly known. */
export const about = (seconds) => (seconds < 0.5 ? duration(seconds) : _("about {time}", { time: duration(seconds) }));

function dated(value, options) {
  const time = new Date(value || NaN);
  return Number.isNaN(time.getTime()) ? NONE : format(Intl.DateTimeFormat, options).format(time);
}

const thisYear = (value) => new Date(value).getFullYear() === new Date().getFullYear();
const dayOf = (value) => ({ day: "numeric", month: "short", year: thisYear(value) ? undefined : "numeric" });

/** A time of today: 17:49:45, or without its seconds. */
export const clock = (value, { seconds = true } = {}) =>
  dated(value, { hour: "2-digit", minute: "2-digit", second: seconds ? "2-digit" : undefined });
/** A day, with its year where that is another one: 21 Nov. */
export const day = (value) => dated(value, dayOf(value));
/** A day with the time: 21 Nov, 17:49. */
export const moment = (value) => dated(value, { ...dayOf(value), hour: "2-digit", minute: "2-digit" });
/** A time with everything that is known of it. */
export const fully = (value) => dated(value, { dateStyle: "medium", timeStyle: "medium" });

// -- the API --------------------------------------------------------------------------------------------------------

/** What the server refused: `message` says what is wrong, `fix` what to do, both in `language` where that is not the
 * page's. `status` 0: it was not reached; `wait`: seconds until it may be asked again, 0 where it does not say. */
export class Failure extends Error {
  constructor(status, { code, message, fix, findings, language: spoken }, wait = 0) {
    super(message);
    Object.assign(this, { status, code, fix: fix ?? "", findings: findings ?? [], language: spoken, wait });
  }
}

const PATIENCE = 60_000; // milliseconds after which a server that says nothing is taken to be away
/** The same for what the server works at for long: rows that are counted, files that are read whole. */
export const LONG = 3_600_000;

/** Ask the API. Answers the decoded document, null where there is none. patience: milliseconds.
 * @throws {Failure} it was refused; an AbortError where `signal` said so. Who is not signed in is sent to sign in. */
export async function ask(method, path, body, { signal, patience } = {}) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  const answer = await reached(path, { method, headers, signal, patience, body: body && JSON.stringify(body) });
  if (answer.status === 204) return null;
  const told = await answer.json().catch((error) => {
    throw error.name === "AbortError" ? error : unreached();
  });
  if (told === null) throw unreached(); // it was something else that answered
  return told;
}

/** Send a request and answer the response itself, for streams and texts. patience: 0 for a stream without an end.
 * @throws {Failure} as `ask`. */
export async function reached(path, { signal, patience = PATIENCE, ...options } = {}) {
  const ends = [signal, patience && AbortSignal.timeout(patience)].filter(Boolean);
  let answer;
  awaited += 1;
  try {
    const headers = { "Accept-Language": language, ...options.headers };
    answer = await fetch(path, { ...options, headers, signal: AbortSignal.any(ends) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreached();
  } finally {
    awaited -= 1;
    fill();
  }
  if (answer.ok) return answer;
  if (answer.status === 401) signIn();
  throw refusal(answer.status, await answer.json().catch(() => null), answer.headers.get("Retry-After"));
}

const MOMENT = 300; // milliseconds; longer than it takes to draw an answer
let awaited = 0; // answers
let filling = 0;

/** A page has filled when it has waited for nothing for a moment: then its foot is shown. */
function fill() {
  clearTimeout(filling);
  filling = setTimeout(() => awaited || root.toggleAttribute("data-filled", true), MOMENT);
}

addEventListener("load", fill);

/** An answer that is no success as a failure. told: its document, null where it has none, as that of a proxy. */
export function refusal(status, told, wait) {
  if (!told?.error?.message && [502, 503, 504].includes(status)) return unreached(status);
  const unsaid = { message: _("The server refused, without saying why."), fix: _("Its log may say why.") };
  return new Failure(status, told?.error?.message ? told.error : unsaid, Number(wait) || 0);
}

const unreached = (status = 0) =>
  new Failure(status, { message: _("The server does not answer."), fix: _("See whether it is running.") });

/** Whether the same may be asked again later: the server was away, busy, or stumbled. */
export const passing = ({ status }) => status === 0 || status === 408 || status === 429 || status >= 500;

/** A name as a part of an address: its slashes stay. */
export const encoded = (name) => name.split("/").map(encodeURIComponent).join("/");

/** Go and sign in, and come back here. */
export function signIn() {
  if (["/login", "/setup"].includes(location.pathname)) return;
  location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search + location.hash)}`);
}

/** Ask by one of the methods, as `ask` does. */
export const get = (path, options) => ask("GET", path, undefined, options);
export const post = (path, body = {}, options = {}) => ask("POST", path, body, options);

/** What a document says of a key, undefined where nothing: a model may be called "constructor", as a part of all
 * objects is. */
export const by = (values, key) => (values && Object.hasOwn(values, key) ? values[key] : undefined);

// -- told to people -------------------------------------------------------------------------------------------------

const region = $("#told");
let telling = 0;

/** Said to who listens to the page, seen by nobody. */
export function tell(text) {
  toTheFront(region);
  region.textContent = ""; // so that the same words are said again
  clearTimeout(telling);
  lately.push(text);
  setTimeout(() => lately.shift(), 1000);
  telling = setTimeout(() => (toTheFront(region).textContent = [...new Set(lately)].join(" ")), 60);
}

const lately = []; // what was told in the last second: two parts of a page may have something to say of one change

/** A word at the lower edge that goes away by itself. Nothing that has to be read stands only there. */
export function toast(text, tone = "") {
  $(".toast:not(.stays)")?.remove();
  const attributes = { class: "toast", popover: "manual", "aria-hidden": "true" }; // who listens is told
  const box = h("p", attributes, tone === "bad" && icon("err"), text);
  toTheFront(box).showPopover();
  tell(text);
  setTimeout(() => box.remove(), tone === "bad" ? 8000 : 2400);
}

/** Into the dialog that is open, outside which everything is inert and silent; else the page. */
function toTheFront(element) {
  const place = $$("dialog:modal").at(-1) ?? document.body;
  if (element.parentNode !== place) place.append(element);
  return element;
}

/** What went wrong, with the fix; `again`: does it once more, where that may help. */
export const failure = (error, again) =>
  h(
    "div",
    { class: "failure", role: "alert" },
    icon("err", "bad"),
    h("p", { lang: error.language }, h("b", {}, error.message), " ", error.fix),
    again && h("button", { class: "btn small", type: "button", onclick: () => again() }, _("Try again")),
  );

/** The same where nothing on the page is its place: said for a moment. Whoever was interrupted needs no word of it. */
export const failed = (error) => {
  if (error.name === "AbortError") return;
  if (!(error instanceof Failure)) throw error;
  toast(`${error.message} ${error.fix}`.trim(), "bad");
};

/** A part of a page that is loaded when it is needed: `part(import(…))`. Null where it can't be, which is said. */
export const part = (loading) => loading.catch(outdated);

/** A browser does not ask a second time for a module that did not come, and after the server was started anew the files
 * of this page may have other names: it has to be loaded again, which is said until it is. */
function outdated() {
  if ($(".toast.stays")) return null;
  const text = _("A part of this page could not be loaded. Load the page again when the server answers.");
  const again = h("button", { class: "btn small", type: "button", onclick: () => location.reload() }, _("Load again"));
  const box = h("div", { class: "toast stays", popover: "manual", role: "alert" }, icon("err"), text, again);
  document.body.append(box);
  box.showPopover();
  return null;
}

/** Put other children into an element, only where that changes it: what is read or selected stays. */
export function put(element, ...children) {
  const wanted = children.flat(Infinity).filter((child) => child != null && child !== false);
  const had = [...element.childNodes];
  const stays = (child, at) =>
    child === had[at] || (had[at].nodeType === Node.TEXT_NODE && had[at].data === `${child}`);
  if (wanted.length !== had.length || !wanted.every(stays)) element.replaceChildren(...wanted);
  return element;
}

/** Put into an element what is `made()`, only where what it is made `from` has changed: what is in it keeps the focus. */
export function redraw(element, from, made) {
  const now = JSON.stringify(from);
  if (drawn.get(element) === now) return;
  drawn.set(element, now);
  put(element, made());
}

const drawn = new WeakMap();

/** A text with what stands between backticks as code. */
export const coded = (text) => text.split("`").map((piece, at) => (at % 2 ? h("code", {}, piece) : piece));

/** A button that copies a text. label: what it is, for who can't see that it stands beside it. */
export const copier = (text, label) =>
  h("button", { class: "btn quiet icon small", type: "button", "data-copy": text, "aria-label": label }, icon("copy"));

/** Ask before something that can't be undone. The safe answer is focused; resolves to the value of the button. */
export async function confirmed({ title, text, no = _("Cancel"), choices }) {
  if ($("[role=alertdialog]")) return ""; // it was asked for twice
  const buttons = choices.map(({ value, label, tone = "danger" }) =>
    h("button", { class: `btn ${tone}`, value }, label),
  );
  const dialog = h(
    "dialog",
    { class: "narrow-dlg", role: "alertdialog", "aria-labelledby": "asked", "aria-describedby": "asked-why" },
    h(
      "form",
      { method: "dialog" },
      h(
        "div",
        { class: "dlg-head" },
        h("h2", { id: "asked" }, title),
        h("p", { class: "muted", id: "asked-why" }, text),
      ),
      h(
        "div",
        { class: "dlg-foot" },
        h("button", { class: "btn", value: "", autofocus: true }, no),
        h("span", { class: "row" }, buttons),
      ),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    }),
  );
}

// -- the bar --------------------------------------------------------------------------------------------------------

let known = null;
/** What GET /api/machine tells, asked once for the page. */
export const machine = () =>
  (known ??= get("/api/machine").catch((error) => {
    known = null; // it may be asked again
    throw error;
  }));

/** What trains here, beside the buttons of the bar: its name and free memory. told: as GET /api/machine tells it. */
export function showMachine(told) {
  const place = $("#machine");
  const [first, ...more] = told?.devices ?? [];
  if (!place || !first) return;
  const name = more.length ? _("{name} and {n} more", { name: titled(first), n: more.length }) : titled(first);
  put(place, icon("chip"), h("span", { class: "machine-name" }, name), h("span", {}, free(first)));
  place.title = [first, ...more].map((device) => `${titled(device)}: ${free(device)}`).join("\n");
  place.hidden = false;
}

const titled = (device) => device.title || device.name;
const free = (device) => _("{size} free", { size: bytes(device.free_memory_bytes) });

// The Train page is told of the machine with its verdicts; all others have the time to ask.
if ($("#machine") && location.pathname !== "/train") {
  const idle = window.requestIdleCallback ?? setTimeout;
  addEventListener("load", () => idle(() => machine().then(showMachine, () => {})));
}

const remember = (name, value) => {
  document.cookie = `${name}=${value}; path=/; max-age=31536000; samesite=lax`;
};
const remembered = (name) => document.cookie.match(`(?:^|; )${name}=([a-z]+)`)?.[1];

function isDark() {
  if (root.dataset.theme) return root.dataset.theme === "dark";
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

// A page that the browser kept, to come back to, may have been left before theme or language were changed.
addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  if ((remembered("language") ?? language) !== language) location.reload();
  else if (remembered("theme")) root.dataset.theme = remembered("theme");
});

async function copy(target) {
  const copied =
    (await navigator.clipboard
      ?.writeText(target.dataset.copy)
      .then(() => true)
      .catch(() => false)) ?? false;
  if (copied || copiedBySelecting(target)) toast(_("Copied"));
  else toast(_("This browser lets no page copy. Select the text and copy it yourself."), "bad");
}

/** Where a page that did not come by https has no clipboard: from a field that is there for a moment. */
function copiedBySelecting(target) {
  const field = h("textarea", { class: "vh", tabindex: -1, "aria-hidden": "true" });
  field.value = target.dataset.copy;
  target.after(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  target.focus();
  return done;
}

async function signOut() {
  try {
    await post("/api/logout");
  } catch (error) {
    return failed(error); // who sees the page must not believe that nobody else can now
  }
  for (const held of [sessionStorage, localStorage]) held.clear(); // what was written here is for nobody who comes next
  location.assign("/login");
}

document.addEventListener(
  "click",
  (event) => {
    const target = event.target.closest("button, a, input, label, select");
    if (!target) return;
    if (target.closest("[aria-disabled]")?.getAttribute("aria-disabled") === "true") {
      event.preventDefault(); // it can still be focused, so its reason can be read
      event.stopImmediatePropagation();
      return;
    }
    target.closest(".menu[popover]")?.hidePopover();
    if (target.matches("[data-theme-toggle]")) {
      root.dataset.theme = isDark() ? "light" : "dark";
      remember("theme", root.dataset.theme);
    } else if (target.matches("[data-language]")) {
      remember("language", target.dataset.language);
      location.reload();
    } else if (target.matches("[data-sign-out]")) {
      signOut();
    } else if (target.matches("[data-open]")) {
      const dialog = document.getElementById(target.dataset.open);
      if (!dialog.open) dialog.showModal();
    } else if (target.matches("[data-copy]")) {
      copy(target);
    }
  },
  true,
);
