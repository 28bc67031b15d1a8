// What happened in a run, in sentences, newest first.
import { $, _, _n, by, clock, day, fully, h, icon, moment, NONE, number, put } from "./ui.js";
import { gone, of, ranking } from "./course.js";
import { deviceName } from "./standing.js";

const MOST = 200; // sentences on the page

/** The log of a run, empty. */
export const empty = () => ({ entries: [], drawn: 0, told: 0 });

/** Note what an event means, before it is folded. course: the run until then. */
export function note(log, event, course) {
  for (const sentence of SENTENCES[event.type]?.(event, course) ?? [])
    add(log, event.timestamp, sentence, event.language);
  if (log.entries.length > 2 * MOST) log.entries.splice(0, log.entries.length - MOST);
}

/** Note that a run is certified: no event says so, its status does. */
export const noteCertified = (log, at) => add(log, at, ["seal", "good", _("Certified and entered in the ledger")]);

function add(log, at, [drawing, tone, text, problem], lang) {
  log.entries.push({ at, drawing, tone, text, problem, lang });
  log.told += 1;
}

/** Add what is new to a list; what is old leaves it at the end. */
export function draw(log, list) {
  if (log.told === log.drawn) return;
  const fresh = log.entries.slice(-Math.min(MOST, log.told - log.drawn));
  log.drawn = log.told;
  list.prepend(...fresh.reverse().map(line));
  while (list.children.length > MOST) list.lastChild.remove();
  $("#log-more").hidden = log.told <= MOST;
}

/** Begin anew, for a journal that is read from its first record again. */
export function clear(log, list) {
  Object.assign(log, empty());
  put(list);
}

const line = ({ at, drawing, tone, text, problem, lang }) =>
  h(
    "li",
    {},
    h("time", { datetime: at, title: fully(at) }, day(at) === day(Date.now()) ? clock(at) : moment(at)),
    icon(drawing, tone),
    h("span", {}, withProblem(text, problem, lang)),
  );

/** A sentence whose {problem} is in the server's words. lang: theirs, where it is not the page's. */
export function withProblem(text, problem, lang) {
  const [before, after] = text.split("{problem}");
  return after === undefined ? [text] : [before, problem ? h("span", { lang }, problem) : NONE, after];
}

/** Why a run was broken off, as its journal says it. */
export const brokenOff = (cause) =>
  ({ "stop --now": _("It was stopped at once, as asked."), "Ctrl-C": _("It was stopped at the keyboard.") })[cause] ??
  cause;

const SENTENCES = {
  run_accepted: ({ warnings, dataset }, course) => [
    course.outside
      ? ["flag", "", _("Reported by another program")]
      : warnings.length
        ? ["flag", "warn", _n(warnings.length, "Accepted with {n} warning", "Accepted with {n} warnings")]
        : ["flag", "", _("Accepted without warnings")],
    ...(dataset.training_rows
      ? [
          [
            "file",
            "",
            _("{training} rows to train on, {validation} to validate with", {
              training: number(dataset.training_rows),
              validation: number(dataset.validation_rows),
            }),
          ],
        ]
      : []),
  ],
  run_queued: ({ device }) => [["clock", "", _("Waits for its turn on {device}", { device: deviceName(device) })]],
  training_resumed: ({ epoch }) => [
    ["play", "", epoch ? _("Goes on after epoch {n}", { n: number(epoch) }) : _("Started: the models are prepared")],
  ],
  run_planned: ({ models, at_once, excluded_validation_rows }) => {
    const count = Object.keys(models).length;
    return [
      [
        "bolt",
        "",
        _n(count, "{n} model is ready", "{n} models are ready, {together} at once", { together: number(at_once) }),
      ],
      ...(excluded_validation_rows
        ? [
            [
              "info",
              "",
              _n(
                excluded_validation_rows,
                "{n} validation row is too long for some model and compared for none",
                "{n} validation rows are too long for some model and compared for none",
              ),
            ],
          ]
        : []),
    ];
  },
  epoch_start: ({ epoch }, course) =>
    course.outside ? [] : [["play", "", _("Epoch {n} started", { n: number(epoch) })]],
  checkpoint_damaged: ({ model, epoch, problem }, course) => [
    [
      "warn",
      "warn",
      _("A checkpoint of {model} is damaged, epoch {n} is trained again: {problem}", named(course, model, epoch)),
      problem,
    ],
  ],
  worker_restarted: ({ model, epoch, cause }, course) => [
    ["warn", "warn", _("{model} was restarted in epoch {n}: {problem}", named(course, model, epoch)), cause],
  ],
  training_error: ({ model, epoch, problem }, course) => [
    !model
      ? ["err", "bad", _("Failed: {problem}"), problem]
      : epoch
        ? ["ban", "bad", _("{model} quarantined in epoch {n}: {problem}", named(course, model, epoch)), problem]
        : ["ban", "bad", _("{model} could not be prepared: {problem}", named(course, model, epoch)), problem],
  ],
  weight_adjustment: ({ weights }, course) => {
    const moved = Object.entries(weights)
      .map(([key, weight]) => [of(course, key), weight])
      .filter(([model, weight]) => Math.abs(model.weight - weight) >= 0.005)
      .map(([model, weight]) => `${model.name} ${number(model.weight, 2)} → ${number(weight, 2)}`);
    return moved.length ? [["shift", "", _("Weights moved: {moves}", { moves: moved.join(", ") })]] : [];
  },
  epoch_end: (event, course) => {
    const before = leader(course);
    const after = first(event, course);
    const n = number(event.epoch);
    const led = after && { n, model: after.model.name, value: number(after.value, 3) };
    return [
      [
        "check",
        "good",
        led ? _("Epoch {n} committed: {model} leads at {value}", led) : _("Epoch {n} committed", { n }),
      ],
      ...(before && after && before !== after.model
        ? [["flag", "", _("{model} takes the lead from {other}", { model: after.model.name, other: before.name })]]
        : []),
      ...event.overfitting
        .map((key) => of(course, key))
        .filter((model) => !model.overfitting)
        .map(({ name }) => [
          "warn",
          "warn",
          _("{model} overfits: its validation loss rose while its training loss fell", { model: name }),
        ]),
    ];
  },
  auto_stop_triggered: ({ current_change }) => [
    [
      "hour",
      "",
      current_change == null
        ? _("Auto-stop: nothing more is learned")
        : _("Auto-stop: nothing more is learned, the last change was {change}", { change: number(current_change, 4) }),
    ],
  ],
  stop_requested: () => [["stop", "warn", _("Stop requested: it ends with this epoch")]],
  training_stopped: ({ epoch }) => [["stop", "warn", _("Stopped after epoch {n}", { n: number(epoch) })]],
  training_interrupted: ({ cause }) => [["warn", "warn", _("Interrupted: {cause}", { cause: brokenOff(cause) })]],
  model_verified: ({ model, epoch }, course) => [
    ["check", "good", _("{model} verified: the adapter of epoch {n} is kept", named(course, model, epoch))],
  ],
  training_complete: ({ champion, reason }, course) => [
    [
      "seal",
      "good",
      reason === "auto_stop"
        ? _("Finished by auto-stop: {model} won", { model: of(course, champion).name })
        : _("Finished: {model} won", { model: of(course, champion).name }),
    ],
  ],
};

const named = (course, model, epoch) => ({ model: of(course, model).name, n: number(epoch) });

function leader(course) {
  const [best] = course.done ? ranking(course) : [];
  return best && best.value != null && !gone(best.model) ? best.model : null;
}

/** Who leads after an epoch that ends, with the value. */
function first(event, course) {
  const values = course.rankBy === "val_loss" ? event.val_losses : event.bits_per_byte;
  const found = course.models
    .map((model) => ({ model, value: by(values, model.key) }))
    .filter(({ model, value }) => value != null && !Object.hasOwn(event.quarantined, model.key))
    .sort((a, b) => a.value - b.value);
  return found[0] ?? null;
}
