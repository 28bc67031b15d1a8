// How a run goes: a fold over its events in the order of their seq, as the server's own state is. Nothing here draws.
import { called, outside } from "./standing.js";
import { by } from "./ui.js";

const MOST_STEPS = 2000; // of a model, then neighbours are joined
const PACE = 5; // epochs that the time left is judged by

/** A run of which no event is known yet. run: the document of GET /api/runs/{id}. */
export function begin(run) {
  return {
    id: run.run_id,
    seq: 0,
    at: "", // of the last event
    status: run.status,
    outside: outside(run),
    rankBy: run.rank_by ?? run.config?.training?.rank_by ?? "bits_per_byte",
    preferences: run.config?.training?.method === "dpo",
    total: run.total_epochs,
    done: 0, // epochs that hold
    percent: 0,
    models: run.base_models.map((key, place) => model(key, place, called(run, key))),
    startedAt: "",
    begun: false, // whether it has ever had its turn
    beganAt: "", // what the time of the epoch is counted from
    paces: [], // seconds of the last epochs
    autoStop: null,
    triggered: false,
    device: "",
    cause: null, // why it is not going: {problem, fix}
    result: null,
    events: 0,
  };
}

function model(key, place, name) {
  return {
    key,
    place,
    name,
    weight: 1,
    rate: null, // of the epoch that is trained, or was last
    speed: null,
    accuracy: null,
    progress: null, // the last step of the epoch that goes on
    finished: false, // whether it has ended that epoch
    download: null,
    failing: null, // it can't go on: {epoch, problem, fix}
    out: null, // the same once it has left
    verified: null, // the epoch whose adapter is kept
    overfitting: false,
    // [[epoch, value], …]
    losses: [],
    bits: [],
    trained: [],
    weights: [[0, 1]],
    rates: [], // with which each epoch is trained; what follows from the weights after the last is not used
    steps: [], // [[epochs and a share of the next, loss], …]
  };
}

/** Take one event in. Times are those of the events, so the run is told alike whenever it is read. */
export function apply(course, event) {
  if (event.type === "heartbeat") {
    course.status = event.status;
    return;
  }
  course.seq = event.seq;
  course.at = event.timestamp;
  course.events += 1;
  FOLDS[event.type]?.(course, event);
}

const FOLDS = {
  run_accepted(course, event) {
    course.startedAt = event.timestamp;
    course.begun = true;
    course.total = event.total_epochs;
    course.status = "preparing";
  },
  run_queued(course, event) {
    course.device = event.device;
    course.begun = Boolean(course.planned);
    course.status = "queued";
    course.cause = null;
    forget(course);
  },
  training_resumed(course, event) {
    course.begun = true;
    course.status = course.planned ? "training" : "preparing";
    course.cause = null;
    course.beganAt = "";
    forget(course);
    for (const each of course.models) {
      each.verified = null;
      each.download = null;
      each.steps = each.steps.filter(([x]) => x <= event.epoch);
    }
    if (event.epoch === 0) course.startedAt = event.timestamp;
    course.percent = (100 * course.done) / course.total;
  },
  download_progress(course, event) {
    of(course, event.model).download = event;
  },
  run_planned(course, event) {
    course.planned = true;
    course.rankBy = event.rank_by;
    for (const each of course.models) {
      each.download = null;
      if (!Object.hasOwn(event.models, each.key)) each.out = each.failing ?? { epoch: 0, problem: "", fix: "" };
    }
  },
  epoch_start(course, event) {
    if (course.status !== "stopping") course.status = "training";
    forget(course);
    course.beganAt ||= event.timestamp;
    for (const [key, rate] of Object.entries(event.lr_multipliers)) trainedWith(of(course, key), event.epoch, rate);
  },
  progress(course, event) {
    const each = of(course, event.model);
    each.progress = event;
    each.speed = event.tokens_per_second;
    course.percent = event.progress_percent;
    const at = event.epoch - 1 + event.step / event.steps;
    while (each.steps.length && each.steps.at(-1)[0] >= at) each.steps.pop(); // its epoch has begun anew
    each.steps.push([at, event.loss]);
    if (each.steps.length > MOST_STEPS) each.steps = joined(each.steps);
  },
  model_epoch_end(course, event) {
    const each = of(course, event.model);
    each.finished = true;
    if (event.learning_rate != null) trainedWith(each, event.epoch, event.learning_rate);
    each.speed = event.tokens_per_second ?? each.speed;
  },
  worker_restarted(course, event) {
    of(course, event.model).progress = null;
  },
  training_error(course, event) {
    if (event.model) of(course, event.model).failing = event;
    else {
      course.cause = event;
      course.status = "failed";
    }
  },
  weight_adjustment(course, event) {
    for (const [key, weight] of Object.entries(event.weights)) of(course, key).weight = weight;
  },
  epoch_end(course, event) {
    paced(course, event.timestamp);
    course.done = event.epoch;
    course.percent = event.progress_percent;
    course.autoStop = event.auto_stop_info;
    for (const each of course.models) committed(each, event);
    if (event.preferences) course.preferences = true;
    forget(course);
  },
  auto_stop_triggered(course) {
    course.triggered = true;
  },
  stop_requested(course) {
    course.status = "stopping";
  },
  training_stopped(course) {
    course.status = "stopped";
  },
  training_interrupted(course, event) {
    course.status = "interrupted";
    course.cause = { problem: event.cause, fix: "", language: event.language };
  },
  model_verified(course, event) {
    of(course, event.model).verified = event.epoch;
  },
  training_complete(course, event) {
    course.status = "completed";
    course.percent = 100;
    course.result = event;
    for (const [key, problem] of Object.entries(event.quarantined))
      of(course, key).out ??= { problem, fix: "", language: event.language };
    forget(course);
  },
};

/** What was shown of an epoch that goes on is void. */
function forget(course) {
  for (const each of course.models) Object.assign(each, { progress: null, finished: false, failing: null });
}

function committed(each, event) {
  const { epoch } = event;
  const told = (values, into) => by(values, each.key) != null && into.push([epoch, by(values, each.key)]);
  told(event.val_losses, each.losses);
  told(event.bits_per_byte, each.bits);
  told(event.train_losses, each.trained);
  told(event.weights, each.weights);
  each.weight = by(event.weights, each.key) ?? each.weight;
  each.speed = by(event.tokens_per_second, each.key) ?? each.speed;
  each.accuracy = by(event.preferences, each.key)?.accuracy ?? each.accuracy;
  each.overfitting = event.overfitting.includes(each.key);
  const problem = by(event.quarantined, each.key);
  if (problem !== undefined) each.out ??= { epoch, fix: "", ...each.failing, problem, language: event.language };
}

/** An epoch may begin anew, and another program tells its rate only when it ends. */
function trainedWith(each, epoch, rate) {
  while (each.rates.length && each.rates.at(-1)[0] >= epoch) each.rates.pop();
  each.rates.push([epoch, rate]);
  each.rate = rate;
}

function paced(course, at) {
  const seconds = (new Date(at) - new Date(course.beganAt || at)) / 1000;
  if (seconds > 0) course.paces = [...course.paces, seconds].slice(-PACE);
  course.beganAt = at;
}

/** Half as many points: each is the mean of two neighbours. */
function joined(points) {
  const halved = [];
  for (let at = 0; at + 1 < points.length; at += 2) {
    const [[x, y], [nextX, nextY]] = [points[at], points[at + 1]];
    halved.push([(x + nextX) / 2, y == null || nextY == null ? (y ?? nextY) : (y + nextY) / 2]);
  }
  if (points.length % 2) halved.push(points.at(-1));
  return halved;
}

// -- what follows from it -------------------------------------------------------------------------------------------

/** The model with a key. */
export const of = (course, key) => course.models.find((each) => each.key === key) ?? model(key, 0, key);

/** The history of what models are ranked by: [[epoch, value], …]. */
export const ranked = (course, each) => (course.rankBy === "val_loss" ? each.losses : each.bits);

/** What a model is worth now, or in the epoch whose adapter was kept. null where it has no value. */
export const valueAt = (each, points, done) =>
  points.findLast(([epoch]) => epoch === (each.verified ?? done))?.[1] ?? null;

/** Whether a model has left, or is about to. */
export const gone = (each) => each.out ?? each.failing;

/** The models, the leader first, as the server ranks them. `value`: of the metric that ranks. */
export function ranking(course) {
  return course.models
    .map((each) => ({ model: each, value: valueAt(each, ranked(course, each), course.done) }))
    .sort((a, b) => compare(order(a), order(b)));
}

/** As the server ranks them; those without a value stay as they were selected. */
const order = ({ model: each, value }) =>
  value == null ? [gone(each) ? 1 : 0, 1, each.place] : [gone(each) ? 1 : 0, 0, value, each.key];

function compare(left, right) {
  for (const [place, value] of left.entries()) {
    if (value !== right[place]) return value < right[place] ? -1 : 1;
  }
  return 0;
}

/** Whether a failed run would fail again in the same way: what diverged computes the same once more. */
export const inVain = (course) => {
  const last = course.models.filter((each) => !each.out);
  return course.status === "failed" && last.length > 0 && last.every((each) => each.failing?.kind === "diverged");
};

/** Whether no epoch is left to train: what follows is that the adapters are verified. */
export const trained = (course) => course.triggered || (course.done > 0 && course.done >= course.total);

/** Seconds until all epochs are done, from the times of those that are; null where nothing can be said. */
export function secondsLeft(course) {
  if (!["training", "stopping"].includes(course.status) || trained(course)) return null;
  const epochs = (course.percent / 100) * course.total;
  const share = epochs - course.done;
  const begun = course.beganAt ? (new Date(course.at) - new Date(course.beganAt)) / 1000 : 0;
  const each = course.paces.length
    ? course.paces.reduce((sum, seconds) => sum + seconds, 0) / course.paces.length
    : share > 0.05 && begun / share;
  const left = course.status === "stopping" ? 1 - share : course.total - epochs;
  return each ? each * Math.max(0, left) : null;
}
