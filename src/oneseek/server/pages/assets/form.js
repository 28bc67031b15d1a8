// What is asked for on the Train page, and what the server says of it. Every part of the page sets settings here and
// listens here; nothing else holds a value. The rules are the server's alone.
import { _, Failure, LONG, passing, post } from "./ui.js";

const DRAFT = "oneseek.draft";
const PAUSE = 20; // milliseconds without another change before the server is asked
const AGAIN = [2000, 4000, 8000, 15000]; // milliseconds until a server that did not answer is asked again

const listeners = { change: [], verdict: [] };
const state = {
  settings: Object.assign(Object.create(null), drafted()), // a draft or a file may say __proto__
  begun: false, // other pages write into the draft and have nothing judged
  verdict: null,
  judged: "", // the settings that the verdict is of, as JSON
  asking: null,
  timer: 0,
  failure: null,
  failures: 0, // one after the other
  reviewed: false, // whether somebody has asked what is missing
};

/** Call `heard(fields)` after settings changed, or `heard(verdict)` when the server has judged all of them, or could
 * not: then there is a `failure()`, and the verdict is an older one. A verdict that an answer to later settings could
 * follow is never told. */
export function on(what, heard) {
  listeners[what].push(heard);
}

/** The value of a setting by its dotted field, `undefined` where nobody set it: then it is the default. */
export const value = (field) => state.settings[field];
/** All that is set, by dotted field. */
export const settings = () => ({ ...state.settings });
/** The last verdict of the server: `ok`, `findings`, `estimate`, `rows`, `machine`; null before the first. */
export const verdict = () => state.verdict;
/** Whether the verdict is of what is asked for now. */
export const settled = () => state.verdict !== null && state.failure === null && state.judged === asked();
/** Why the server could not judge, or null. */
export const failure = () => state.failure;

/** Whether nobody has chosen or set anything yet, nor asked what is missing: then nothing is wrong yet. */
export const pristine = () => !state.reviewed && !Object.keys(state.settings).length;

/** Somebody asks what is missing. */
export function review() {
  if (state.reviewed) return;
  state.reviewed = true;
  tellAll("verdict", state.verdict);
}

/** Set settings, all at once: `undefined` or null takes one back to its default. */
export const set = (changes) => change(changes, keep);

function change(changes, kept) {
  const changed = Object.keys(changes).filter((field) => !same(changes[field], state.settings[field]));
  if (!changed.length) return;
  for (const field of changed) {
    if (changes[field] == null) delete state.settings[field];
    else state.settings[field] = changes[field];
  }
  kept();
  tellAll("change", changed);
  if (state.begun) soon(PAUSE);
}

/** Let these settings be all that there are. */
export const replace = (wanted) => set(instead(wanted));
const instead = (wanted) => ({
  ...Object.fromEntries(Object.keys(state.settings).map((field) => [field, undefined])),
  ...wanted,
});

/** Do what a finding's fix says, where settings alone are the fix. */
export const mend = (finding) => set(Object.fromEntries(finding.changes.map((change) => [change.field, change.value])));

/** The findings about a setting, or about all below a section: `training`, `training.num_epochs`. */
export const findings = (field) =>
  (state.verdict?.findings ?? []).filter((each) => each.field === field || each.field.startsWith(`${field}.`));

/** The body that the API takes: sections, and in them what was set. */
export function body(of = state.settings) {
  const nested = Object.create(null);
  for (const [field, held] of Object.entries(of)) {
    const names = path(field);
    const last = names.pop();
    const section = names.reduce((within, name) => (within[name] = sectioned(within[name])), nested);
    section[last] = held;
  }
  return nested;
}

/** Ask the server now. Resolves to the verdict; null where a later question took its place or it failed. */
export async function judge() {
  clearTimeout(state.timer);
  state.timer = 0;
  state.asking?.abort();
  const mine = (state.asking = new AbortController());
  const judged = asked();
  try {
    const told = await post("/api/validate?partial=true", body(), { signal: mine.signal, patience: LONG });
    if (state.asking !== mine) return null;
    Object.assign(state, { asking: null, failure: null, failures: 0, verdict: told, judged });
  } catch (error) {
    if (state.asking !== mine) return null;
    if (!(error instanceof Failure)) error = new Failure(0, { message: _("The server’s answer can’t be read.") });
    Object.assign(state, { asking: null, failure: error });
    if (passing(error)) soon(Math.max(1000 * error.wait, AGAIN[Math.min(state.failures++, AGAIN.length - 1)]));
  }
  if (judged !== asked()) return null; // it was changed meanwhile, and is about to be judged
  tellAll("verdict", state.verdict);
  return state.failure ? null : state.verdict;
}

/** What the server found when it refused to start what is asked for now. */
export function refused(found) {
  Object.assign(state, { verdict: { ...state.verdict, ok: false, findings: found }, judged: asked() });
  tellAll("verdict", state.verdict);
}

/** Begin with the draft of the last visit, else with nothing, and have it judged. */
export function begin() {
  state.begun = true;
  tellAll("change", Object.keys(state.settings));
  return judge();
}

/** Forget the draft: the run has begun. */
export function forget() {
  try {
    localStorage.removeItem(DRAFT);
  } catch {
    // where nothing is kept, nothing is to be forgotten
  }
}

/** The parts of a dotted field: the key of a model may hold dots. */
function path(field) {
  const names = field.split(".");
  if (names[0] !== "per_model" || names.length < 5) return names;
  return ["per_model", names.slice(1, -2).join("."), ...names.slice(-2)];
}

function soon(milliseconds) {
  clearTimeout(state.timer);
  state.timer = setTimeout(judge, milliseconds);
}

function drafted() {
  try {
    return known(JSON.parse(localStorage.getItem(DRAFT)));
  } catch {
    return null; // no draft, or one that somebody else wrote there
  }
}

function keep() {
  try {
    localStorage.setItem(DRAFT, JSON.stringify(state.settings));
  } catch {
    // private windows keep nothing; the form works all the same
  }
}

const asked = () => JSON.stringify(state.settings);
const same = (one, other) => JSON.stringify(one ?? null) === JSON.stringify(other ?? null);
// A function, since the draft is read before the constants below are there.
function known(held) {
  return held !== null && typeof held === "object" && !Array.isArray(held) ? held : null;
}
const sectioned = (held) => known(held) ?? Object.create(null);

/** Whoever stumbles over what was set, which a file or another version may have written, keeps nobody else from hearing,
 * and nothing from being judged. */
function tellAll(what, told) {
  for (const heard of listeners[what]) {
    try {
      heard(told);
    } catch (error) {
      reportError(error);
    }
  }
}

/** Take over what is kept: it was written later than what is here. It is not written again: whoever types in the other
 * tab may be further by then. */
function takeOver() {
  const later = drafted();
  if (later) change(instead(later), () => {});
}

addEventListener("storage", (event) => {
  if (event.key === DRAFT && event.newValue) takeOver(); // another tab of the same form: what was typed last counts
});
addEventListener("pageshow", (event) => {
  if (event.persisted && state.begun) replace(drafted() ?? {}); // the run that this page began has taken the draft
});
addEventListener("online", () => {
  if (state.begun && state.failure) judge();
});
