// Work that the server does on models: downloads from the hub, and conversions. It goes on when the page is closed.
import { _, $, ask, bytes, duration, failed, get, h, icon, number, post, put, tell } from "./ui.js";

const AT_ONCE = 4; // as many as the server runs; browsers open six connections to a host, and the page needs some
const PAUSE = 3000; // milliseconds until it is looked again after the server refused

/** Begin to download `org/name`, `org/name@revision`, or the key of a model that is partly here. Resolves to the task;
 * one that runs already is that task. */
export const download = (name) => post("/api/models/pull", { name });

/** Begin to write safetensors beside pickled weights. Resolves to the task. */
export const convert = (key) => post(`/api/models/${encodeURIComponent(key)}/convert`);

/** Let a task end. */
export const cancel = (id) => ask("DELETE", `/api/tasks/${encodeURIComponent(id)}`);

/** Downloads and conversions that wait or run now, the oldest first. */
export async function running() {
  const { tasks } = await get("/api/tasks");
  return tasks.filter((task) => ["pull", "convert"].includes(task.kind) && !over(task)).reverse();
}

/** Whether a task has ended, as asked or not. */
export const over = (task) => !["waiting", "running"].includes(task.status);

/** Call `onProgress(task)` whenever a task has changed, and `onEnd(task)` once. Answers a function that stops it. */
export function follow(id, { onProgress = () => {}, onEnd = () => {} } = {}) {
  const follower = { id, onProgress, onEnd, source: null, timer: 0, ended: false };
  followers.push(follower);
  followNext();
  return () => end(follower);
}

/** A task with its progress, rate, time left and Cancel; `onEnd(task)` when it is over.
 * `named`: whether it says of which model, where nothing around it does. */
export function row(task, { onEnd = () => {}, named = true } = {}) {
  const about = task.about.model;
  const bar = h("progress", { "aria-label": label(task, about) });
  const said = h("span", { class: "muted" });
  const stop = h(
    "button",
    { class: "btn small", type: "button", "aria-label": _("Cancel: {what}", { what: label(task, about) }) },
    icon("x"),
    _("Cancel"),
  );
  const element = h(
    "div",
    { class: "task", "data-task": task.id },
    named && h("p", { class: "task-name" }, label(task, about)),
    bar,
    h("div", { class: "task-foot" }, said, stop),
    task.warning && h("p", { class: "msg" }, icon("warn", "warn"), h("span", {}, task.warning)),
  );
  stop.addEventListener("click", async () => {
    stop.setAttribute("aria-disabled", "true");
    await cancel(task.id).catch((error) => {
      stop.removeAttribute("aria-disabled");
      failed(error);
    });
  });
  draw(task);
  follow(task.id, { onProgress: draw, onEnd: finish });
  return element;

  function draw(at) {
    const { done, total } = at.progress ?? {};
    if (total) {
      bar.max = total;
      bar.value = done;
    } else bar.removeAttribute("value");
    const text = standing(at);
    if (said.textContent !== text) said.textContent = text;
  }

  function finish(ended) {
    bar.remove();
    put($(".task-foot", element), ending(ended));
    tell(ended.status === "failed" ? `${ended.error.message} ${ended.error.fix}` : finished(ended));
    onEnd(ended);
  }
}

/** How far a task is, in words: "3.4 of 15.2 GB · 41 MB/s · 4 min left". */
export function standing(task) {
  if (task.status === "waiting") return _("Waits for its turn");
  if (!task.progress) return task.kind === "convert" ? _("Writing safetensors") : _("Asking the hub");
  const { done, total, bytes_per_second: rate, seconds_left: left } = task.progress;
  if (done >= total) return _("Checking the last file");
  return [
    _("{done} of {total}", { done: bytes(done), total: bytes(total) }),
    rate ? `${bytes(rate)}/s` : `${number(Math.floor((100 * done) / total))} %`,
    left != null && _("{time} left", { time: duration(left) }),
  ]
    .filter(Boolean)
    .join(" · ");
}

// -- rows -----------------------------------------------------------------------------------------------------------

const label = (task, name) =>
  task.kind === "convert" ? _("Converting {name}", { name }) : _("Downloading {name}", { name });

function ending(task) {
  if (task.status !== "failed") {
    return h(
      "p",
      { class: "msg" },
      icon(task.status === "done" ? "check" : "stop", task.status === "done" ? "good" : ""),
      h("span", {}, finished(task)),
    );
  }
  return h(
    "p",
    { class: "msg" },
    icon("err", "bad"),
    h("span", {}, h("b", {}, task.error.message), " ", task.error.fix),
  );
}

function finished(task) {
  const name = task.about.model;
  if (task.kind === "convert") {
    return task.status === "done"
      ? _("{name} has safetensors now.", { name })
      : _("Converting {name} was cancelled.", { name });
  }
  return task.status === "done"
    ? _("{name} is downloaded and checked.", { name })
    : _("Downloading {name} was cancelled. What came stays: the next download goes on from there.", { name });
}

// -- following ------------------------------------------------------------------------------------------------------

const followers = []; // in the order in which they were asked for, which is that in which the server runs tasks

function followNext() {
  for (const follower of followers.slice(0, AT_ONCE)) if (!follower.source && !follower.timer) open(follower);
}

function open(follower) {
  follower.timer = 0;
  const source = (follower.source = new EventSource(`/api/tasks/${encodeURIComponent(follower.id)}/events`));
  source.addEventListener("progress", (event) => follower.onProgress(JSON.parse(event.data)));
  for (const status of ["done", "failed", "cancelled"]) {
    source.addEventListener(status, (event) => finish(follower, JSON.parse(event.data)));
  }
  // A lost connection comes back by itself; what the server refuses does not.
  source.addEventListener("error", () => source.readyState === EventSource.CLOSED && lookAgain(follower));
}

async function lookAgain(follower) {
  follower.source = null;
  follower.timer = setTimeout(open, PAUSE, follower);
  const told = await get(`/api/tasks/${encodeURIComponent(follower.id)}`).catch((error) => error);
  if (told.status === 404) finish(follower, forgotten(follower.id));
  else if (told.id && over(told)) finish(follower, told);
}

const forgotten = (id) => ({
  id,
  kind: "pull",
  about: { model: "" },
  status: "failed",
  error: {
    message: _("The server does not know this task any more: it was started anew."),
    fix: _("Begin again: it goes on from where it was."),
  },
});

function finish(follower, task) {
  if (follower.ended) return;
  end(follower);
  follower.onEnd(task);
}

function end(follower) {
  if (follower.ended) return;
  follower.ended = true;
  follower.source?.close();
  clearTimeout(follower.timer);
  followers.splice(followers.indexOf(follower), 1);
  followNext();
}
