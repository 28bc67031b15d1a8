// How a run stands, as its document tells: its status, who takes part in it, and what they are ranked by. The documents
// are those of GET /api/runs and GET /api/runs/{id}.
import { _, badge, by, status } from "./ui.js";

/** Statuses of runs that go on, of those that can be resumed, and of those that are done. */
export const GOING = ["queued", "preparing", "training", "stopping"];
export const HALTED = ["stopped", "interrupted", "failed"];
export const OVER = ["completed", "certified"];

/** What a run counts as: its status, "old" for what the old system left, "elsewhere" for what another program has
 * finished: that is never certified, so it waits for no entry in the ledger either. */
export function kind(run) {
  if (![...GOING, ...HALTED, ...OVER, "damaged"].includes(run.status)) return "old";
  return outside(run) && run.status === "completed" ? "elsewhere" : run.status;
}

/** What a run counts as, as a badge. */
export function standing(run) {
  const known = kind(run);
  if (known === "old") return badge("", "folder", _("Old system"));
  return known === "elsewhere" ? badge("", "check", _("Completed")) : status(run.status);
}

/** Whether another program trains it, and only reports how it goes. */
export const outside = (run) => (run.engine ? run.engine === "outside" : run.version === "");

/** What a model of a run is called. */
export const called = (run, key) =>
  by(run.display_names, key) ?? run.leaderboard?.find((each) => each.model === key)?.display_name ?? key;

/** A model's place in the selection, from 0: its marker and colour. */
export const place = (run, key) => Math.max(0, run.base_models.indexOf(key));

/** What a device is called: "cpu" is no name. */
export const deviceName = (device) => (device === "cpu" ? "CPU" : device);

/** What is said beside a model that is ahead and has not won; nothing of the champion. */
export const ahead = (run) =>
  run.champion ? "" : GOING.includes(run.status) ? _("leads now") : _("led when it ended");

/** The model that won, or leads; null as long as none does. */
export const best = (run) => run.champion ?? run.leader ?? null;

/** What models are ranked by: "bits_per_byte" or "val_loss". */
export const rankedBy = (run) =>
  run.rank_by ?? (run.leaderboard?.some((each) => each.bits_per_byte != null) ? "bits_per_byte" : "val_loss");

/** The settings of a run as [dotted field, value] each: lists are values, sections are not. */
export const flat = (section, before = "") =>
  Object.entries(section ?? {}).flatMap(([name, held]) =>
    held !== null && typeof held === "object" && !Array.isArray(held)
      ? flat(held, `${before}${name}.`)
      : [[before + name, held]],
  );
