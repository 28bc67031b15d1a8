// What the run would take: memory of each model against what is free, time, disk; and the rehearsal that measures it.
// Loaded when there is something to estimate.
import {
  $,
  LONG,
  _,
  about,
  bytes,
  duration,
  failed,
  failure,
  h,
  icon,
  mark,
  number,
  post,
  put,
  series,
  svg,
  tell,
} from "./ui.js";
import * as form from "./form.js";
import { effective } from "./settings.js";
import { cancel, follow, over } from "./tasks.js";
import { called, chosen, keyOf } from "./train.js";

const PARTS = {
  // of a model's memory, as the bars show them
  weights: ["weights"],
  optimizer: ["adapter", "optimizer"],
  activations: ["activations", "logits"],
  runtime: ["runtime"],
};
const PART_NAMES = () => ({
  weights: _("weights"),
  optimizer: _("adapter and optimiser"),
  activations: _("activations"),
  runtime: _("program"),
});

let drawn = ""; // of which estimate, as JSON

/** Draw what the last verdict estimates, and keep the rehearsal's button as it should be. */
export function draw() {
  const { estimate, machine } = form.verdict() ?? {};
  const unknown = whyUnknown(estimate);
  const measured = projected();
  const key = [estimate, machine, unknown, measured, form.value("device"), form.value("training.num_epochs")];
  if (JSON.stringify(key) !== drawn) {
    drawn = JSON.stringify(key);
    drawMemory(estimate, deviceOf(machine));
    drawTime(estimate, machine, measured, unknown);
  }
  drawRehearsal();
}

const deviceOf = (machine) =>
  machine?.devices.find(({ name }) => name === form.value("device")) ?? machine?.devices[0] ?? null;

// -- memory ---------------------------------------------------------------------------------------------------------

function drawMemory(estimate, device) {
  const [title, place] = [$("#memory h3 span"), $("#memory > :last-child")];
  title.textContent = device?.title ?? "";
  if (!estimate) {
    put(
      place,
      chosen().length ? _("Shown once the errors are solved.") : _("Choose base models to see what they take."),
    );
    place.className = "muted";
    return;
  }
  const models = estimate.models.map((model, at) => ({ ...model, at, total: model.memory.total }));
  const together = [...models].sort((one, other) => other.total - one.total).slice(0, estimate.at_once);
  const sum = together.reduce((all, model) => all + model.total, 0);
  const free = device?.free_memory_bytes ?? null;
  const scale = Math.max(free ?? 0, sum);
  put(
    place,
    stack(together, sum, free, scale),
    h(
      "ul",
      { class: "mem" },
      models.map((model) => memoryOf(model, scale)),
      whole(models, together, sum, free),
    ),
    legend(),
  );
  place.className = "";
}

function stack(together, sum, free, scale) {
  let from = 0;
  const parts = [...together]
    .sort((one, other) => one.at - other.at)
    .map((model) => {
      const bar = rect(from, model.total, scale, { class: series(model.at) });
      from += model.total;
      return [bar, rect(from, scale / 300, scale, { class: "gap" })];
    });
  const label = free === null ? bytes(sum) : _("{size} of {free} free memory", { size: bytes(sum), free: bytes(free) });
  return svg("svg", { class: "stackbar", role: "img", "aria-label": label }, parts);
}

function memoryOf(model, scale) {
  const names = PART_NAMES();
  const parts = Object.entries(PARTS).map(([name, fields]) => [
    name,
    fields.reduce((sum, field) => sum + (model.memory[field] ?? 0), 0),
  ]);
  const label = parts.map(([name, size]) => `${names[name]} ${bytes(size)}`).join(", ");
  let from = 0;
  const bars = parts.map(([, size], at) => {
    const bar = rect(from, size, scale, { class: `${series(model.at)} p${at}` });
    from += size;
    return bar;
  });
  const background = svg("rect", { class: "bg", width: "100%", height: "100%" });
  return h(
    "li",
    { title: label },
    mark(model.at),
    h("span", {}, nameOf(model.key)),
    h("span", {}, bytes(model.total)),
    svg("svg", { class: "mbar", role: "img", "aria-label": label }, background, bars),
  );
}

function whole(models, together, sum, free) {
  const all = models.length === together.length;
  const count = models.length;
  const text = all
    ? sayTogether(count)
    : _("{some} of {all} at once, at most", { some: number(together.length), all: number(count) });
  const tight = free !== null && sum > free;
  return h(
    "li",
    { class: "total" },
    h("span", {}, text),
    h(
      "span",
      { class: tight ? "tight" : null },
      tight && icon("warn", "warn"),
      bytes(sum),
      free !== null && h("small", { class: "muted" }, ` ${_("of {size} free", { size: bytes(free) })}`),
    ),
  );
}

const sayTogether = (count) =>
  count === 1 ? _("One model") : count === 2 ? _("Both at once") : _("All {n} at once", { n: number(count) });

const legend = () =>
  h(
    "p",
    { class: "parts", "aria-hidden": "true" },
    Object.values(PART_NAMES()).map((name, at) =>
      h(
        "span",
        {},
        svg("svg", { class: "mbar" }, svg("rect", { class: `p${at}`, width: "100%", height: "100%" })),
        name,
      ),
    ),
  );

function rect(from, size, scale, attributes) {
  const share = (part) => `${((100 * part) / scale).toFixed(2)}%`;
  return svg("rect", { x: share(from), width: share(size), height: "100%", ...attributes });
}

/** The name on a model's card; its key where it is not selected any more. */
const nameOf = (key) => called(chosen().find((name) => keyOf(name) === key) ?? key);

// -- time and disk --------------------------------------------------------------------------------------------------

/** Why nobody can say how long the run would take, "" where somebody can. */
function whyUnknown(estimate) {
  if (estimate?.seconds != null) return "";
  if (!chosen().length || !form.value("data.dataset")) return _("Shown once base models and a dataset are chosen.");
  const away = form.verdict()?.ok && estimate?.models.find((model) => model.seconds == null);
  return away ? _("Known once {name} is here.", { name: nameOf(away.key) }) : _("Shown once the errors are solved.");
}

function drawTime(estimate, machine, measured, unknown) {
  const place = $("#time > div");
  if (unknown) {
    put(place, unknown);
    place.className = "muted";
    return;
  }
  const seconds = measured ?? estimate.seconds;
  const epochs = effective("training.num_epochs");
  const disk = estimate.models.reduce((sum, model) => sum + model.disk.total, 0);
  const room = machine?.disk_free_bytes;
  const each = { n: number(epochs), time: about(seconds / epochs) };
  const writes =
    room == null
      ? _("Writes up to {size}.", { size: bytes(disk) })
      : _("Writes up to {size} of {room} free.", { size: bytes(disk), room: bytes(room) });
  put(
    place,
    h("p", { class: "big-num" }, duration(seconds)),
    measured !== null &&
      h(
        "p",
        { class: "msg" },
        icon("check", "good"),
        h("span", {}, _("As measured. The estimate was {time}.", { time: duration(estimate.seconds) })),
      ),
    h("p", { class: "muted" }, epochs > 1 && Number.isFinite(epochs) && `${_("{n} epochs of {time}.", each)} `, writes),
  );
  place.className = "";
}

// -- the rehearsal --------------------------------------------------------------------------------------------------

const rehearsal = { task: null, of: "", error: null, cancelled: false, began: 0, timer: 0 };

function drawRehearsal() {
  const { task, error } = rehearsal;
  const running = task && !over(task);
  const key = JSON.stringify([task, rehearsal.cancelled, error?.message, whyNot(), rehearsal.of === asked()]);
  const place = $("#rehearsal");
  if (place.dataset.key === key) return;
  place.dataset.key = key;
  const had = place.contains(document.activeElement);
  put(place, running ? underWay() : [task && outcome(task), error && failure(error), invitation()]);
  if (had) $("button", place)?.focus(); // it is another button, at the same place
}

const asked = () => JSON.stringify(form.body());

/** The seconds that a rehearsal with these very settings has measured for the whole run; null where there was none. */
const projected = () => (rehearsal.of === asked() && rehearsal.task?.result?.rehearsal?.projected_seconds) || null;

/** What stands in the way of a rehearsal, "" for nothing. */
function whyNot() {
  if (form.failure()) return _("The server does not answer.");
  if (!form.settled()) return _("The settings are being checked.");
  return form.verdict().ok ? "" : _("Solve the errors first.");
}

function invitation() {
  const why = whyNot();
  const again = rehearsal.task !== null;
  const rough = _(
    "The estimate is rough and errs on the long side. A rehearsal takes each model through its heaviest step and measures.",
  );
  const said = why || (projected() === null ? rough : "");
  const attributes = {
    class: "btn small",
    type: "button",
    id: "rehearse",
    onclick: rehearse,
    "aria-describedby": "why-rehearse",
  };
  return [
    h(
      "button",
      { ...attributes, "aria-disabled": why ? "true" : null },
      icon("clock"),
      again ? _("Rehearse again") : _("Rehearse"),
    ),
    h("p", { class: "msg", id: "why-rehearse", hidden: !said }, icon("info"), h("span", {}, said)),
  ];
}

async function rehearse() {
  Object.assign(rehearsal, {
    task: { status: "waiting" },
    of: asked(),
    error: null,
    cancelled: false,
    began: Date.now(),
  });
  drawRehearsal();
  clearInterval(rehearsal.timer);
  rehearsal.timer = setInterval(tick, 1000);
  try {
    rehearsal.task = await post("/api/validate?rehearse=true", form.body(), { patience: LONG });
    follow(rehearsal.task.id, { onProgress: told, onEnd: ended });
  } catch (error) {
    clearInterval(rehearsal.timer);
    Object.assign(rehearsal, { task: null, error });
    if (error.findings?.length) form.judge();
  }
  drawRehearsal();
}

function told(task) {
  rehearsal.task = task;
  draw();
}

function ended(task) {
  clearInterval(rehearsal.timer);
  told(task);
  tell(task.status === "done" ? _("The rehearsal is over.") : _("The rehearsal has ended early."));
}

function tick() {
  const place = $("#rehearsal-time");
  if (place) place.textContent = duration((Date.now() - rehearsal.began) / 1000);
}

function underWay() {
  const { task, cancelled } = rehearsal;
  const end = () => {
    rehearsal.cancelled = true; // it ends before the next stage of a model
    drawRehearsal();
    cancel(task.id).catch((error) => {
      rehearsal.cancelled = false;
      drawRehearsal();
      failed(error);
    });
  };
  const state = cancelled ? _("Cancelling") : task.status === "waiting" ? _("It waits for its turn.") : _("Rehearsing");
  return [
    h("progress", { "aria-label": _("Rehearsal") }),
    h(
      "p",
      { class: "msg spread" },
      h("span", {}, state, " ", h("span", { id: "rehearsal-time" }, duration((Date.now() - rehearsal.began) / 1000))),
      h(
        "button",
        { class: "btn small", type: "button", "aria-disabled": cancelled || !task.id ? "true" : null, onclick: end },
        _("Cancel"),
      ),
    ),
  ];
}

/** What was measured, or why nothing was. */
function outcome(task) {
  if (task.status === "cancelled") return h("p", { class: "msg" }, icon("ban"), _("Rehearsal cancelled."));
  if (task.status === "failed") return failure(task.error);
  const { rehearsal: measured, not_rehearsed: why } = task.result;
  if (!measured)
    return h(
      "p",
      { class: "msg" },
      icon("warn", "warn"),
      h("span", {}, _("Not rehearsed:"), " ", h("span", { lang: task.result.language }, why)),
    );
  const stale = rehearsal.of !== asked();
  return h(
    "div",
    { class: "measured" },
    stale &&
      measured.projected_seconds != null &&
      h("p", {}, h("b", {}, duration(measured.projected_seconds)), " ", _("for the whole run, as measured")),
    h("ul", { class: "mem" }, measured.models.map(measuredModel)),
    stale && h("p", { class: "msg" }, icon("info"), _("Measured with other settings than these.")),
  );
}

function measuredModel(model, at) {
  if (model.problem) {
    return h(
      "li",
      { class: "broken" },
      icon("err", "bad"),
      h("span", { lang: model.language }, `${nameOf(model.key)}: ${model.problem} ${model.fix}`),
    );
  }
  const peak = _("{size} at most, {time}", { size: bytes(model.peak_bytes), time: duration(model.projected_seconds) });
  return h("li", {}, mark(at), h("span", {}, nameOf(model.key)), h("span", {}, peak));
}
