// What is asked for on the Train page, and what the server says of it. Every part of the page sets settings here and
// listens here; nothing else holds a value. The rules are the server's alone.
import { _, post } from "./ui.js";

const DRAFT = "oneseek.draft";
const PAUSE = 60; // milliseconds without another change before the server is asked

const listeners = { change: [], verdict: [] };
const state = { settings: {}, verdict: null, asking: null, timer: 0, failure: null };

/** Call `heard(fields)` after settings changed, or `heard(verdict)` when the server has judged all of them.
 * A verdict that an answer to later settings could follow is never told. */
export function on(what, heard) {
  listeners[what].push(heard);
}

/** The value of a setting by its dotted field, `undefined` where nobody set it: then it is the default. */
export const value = (field) => state.settings[field];
export const settings = () => ({ ...state.settings });
/** The last verdict of the server: `ok`, `findings`, `estimate`, `rows`, `machine`; null before the first. */
export const verdict = () => state.verdict;
/** Whether the verdict is of what is asked for now. */
export const settled = () => state.verdict !== null && state.asking === null && state.timer === 0;
/** Why the server could not judge, or null. */
export const failure = () => state.failure;

/** Set settings, all at once: `undefined` or null takes one back to its default. */
export function set(changes) {
  const changed = Object.keys(changes).filter((field) => !same(changes[field], state.settings[field]));
  if (!changed.length) return;
  for (const field of changed) {
    if (changes[field] == null) delete state.settings[field];
    else state.settings[field] = changes[field];
  }
  keep();
  tellAll("change", changed);
  clearTimeout(state.timer);
  state.timer = setTimeout(judge, PAUSE);
}

/** Do what a finding's fix says, where settings alone are the fix. */
export const mend = (finding) =>
  set(Object.fromEntries(finding.changes.map((change) => [change.field, change.value])));

/** The findings about a setting, or about all below a section: `training`, `training.num_epochs`. */
export const findings = (field) =>
  (state.verdict?.findings ?? []).filter((each) => each.field === field || each.field.startsWith(`${field}.`));

/** The body that the API takes: sections, and in them what was set. */
export function body(of = state.settings) {
  const nested = {};
  for (const [field, held] of Object.entries(of)) {
    const names = field.split(".");
    const last = names.pop();
    names.reduce((section, name) => (section[name] ??= {}), nested)[last] = held;
  }
  return nested;
}

/** Ask the server now. Resolves to the verdict; null where a later question took its place or it failed. */
export async function judge() {
  clearTimeout(state.timer);
  state.timer = 0;
  state.asking?.abort();
  const mine = (state.asking = new AbortController());
  try {
    const told = await post("/api/validate?partial=true", body(), { signal: mine.signal });
    if (state.asking !== mine) return null;
    Object.assign(state, { asking: null, failure: null, verdict: told });
  } catch (error) {
    if (state.asking !== mine) return null;
    Object.assign(state, { asking: null, failure: error });
  }
  tellAll("verdict", state.verdict);
  return state.failure ? null : state.verdict;
}

/** Begin with the draft of the last visit, else with nothing, and have it judged. */
export function begin() {
  try {
    state.settings = JSON.parse(localStorage.getItem(DRAFT)) ?? {};
  } catch {
    state.settings = {}; // a draft that somebody else wrote there is none
  }
  tellAll("change", Object.keys(state.settings));
  return judge();
}

/** Forget the draft: the run has begun. */
export const forget = () => localStorage.removeItem(DRAFT);

function keep() {
  try {
    localStorage.setItem(DRAFT, JSON.stringify(state.settings));
  } catch {
    // private windows keep nothing; the form works all the same
  }
}

const same = (one, other) => JSON.stringify(one ?? null) === JSON.stringify(other ?? null);

function tellAll(what, told) {
  for (const heard of listeners[what]) heard(told);
}

addEventListener("storage", (event) => {
  // another tab of the same form: what was typed last counts
  if (event.key !== DRAFT || !event.newValue) return;
  const other = JSON.parse(event.newValue);
  const gone = Object.keys(state.settings).filter((field) => !(field in other));
  set({ ...Object.fromEntries(gone.map((field) => [field, undefined])), ...other });
});
