// Work that the server does on models: downloads from the hub, and conversions. It goes on when the page is closed.
import { cancel, follow, over } from "./tasks.js";
import { $, _, bytes, duration, failed, get, h, icon, number, post, put, tell } from "./ui.js";

/** Begin to download `org/name`, `org/name@revision`, or the key of a model that is partly here. Resolves to the task;
 * one that runs already is that task. */
export const download = (name) => post("/api/models/pull", { name });

/** Begin to write safetensors beside pickled weights. Resolves to the task. */
export const convert = (key) => post(`/api/models/${encodeURIComponent(key)}/convert`);

/** Downloads and conversions that wait or run now, the oldest first. */
export async function running() {
  const { tasks } = await get("/api/tasks");
  return tasks.filter((task) => ["pull", "convert"].includes(task.kind) && !over(task)).reverse();
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
function standing(task) {
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
