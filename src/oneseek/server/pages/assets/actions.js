// What can be done with a run: stop it, resume it, move it in the queue, read what its process said.
import { inVain, trained } from "./course.js";
import { brokenOff } from "./log.js";
import { HALTED, deviceName } from "./standing.js";
import {
  $,
  _,
  _n,
  NONE,
  ask,
  confirmed,
  failed,
  failure,
  get,
  h,
  icon,
  number,
  percent,
  post,
  put,
  reached,
  redraw,
  toast,
} from "./ui.js";

const STOPPABLE = ["preparing", "training", "stopping"];
let drawn = "";
let between = false; // the button that had the focus is gone, and the next is not there yet

/** Draw the buttons that fit the run's status. changed(): called when the server was told something. */
export function draw(course, changed) {
  const wanted = course.outside ? "" : fitting(course);
  advise(wanted === "retry");
  if (wanted === drawn) return;
  const box = $("#run-actions");
  const focused = box.contains(document.activeElement) || (between && document.activeElement === document.body);
  drawn = wanted;
  put(
    box,
    wanted === "stop" && stopButton(course, changed),
    wanted === "resume" && resumeButton(course, changed, "primary"),
    wanted === "retry" && resumeButton(course, changed, "quiet"),
  );
  if (focused) box.firstElementChild?.focus();
  between = focused && !box.firstElementChild;
}

function fitting(course) {
  if (STOPPABLE.includes(course.status)) return "stop";
  if (!HALTED.includes(course.status)) return "";
  return inVain(course) ? "retry" : "resume";
}

/** Running it again with other settings, which is offered with its result, goes before what would fail again. */
const advise = (again) => $("#run-again")?.classList.toggle("primary", again);

/** A button that lets a run go on from its last whole epoch. */
function resumeButton(course, changed, tone) {
  const button = h("button", { class: `btn ${tone}`, type: "button" }, icon("play"), _("Resume"));
  button.addEventListener("click", () =>
    once(button, () => post(`/api/runs/${encodeURIComponent(course.id)}/resume`), changed),
  );
  return button;
}

function stopButton(course, changed) {
  const button = h("button", { class: "btn danger", type: "button" }, icon("stop"), _("Stop"));
  button.addEventListener("click", async () => {
    const when = await confirmed(question(course));
    button.focus();
    if (!when) return;
    const asked = () => post(`/api/runs/${encodeURIComponent(course.id)}/stop`, { when });
    if ((await once(button, asked, changed)) && when === "after-epoch") toast(_("It stops after this epoch"));
  });
  return button;
}

/** What is asked before a run is stopped, and what would be lost. */
function question(course) {
  const n = number(course.done + 1);
  const begun = Math.max(0, (course.percent / 100) * course.total - course.done);
  const kept = _("What is finished is kept, and the run can be resumed with the same result.");
  if (trained(course)) {
    return {
      title: _("Stop this run?"),
      text: _("Its epochs are trained, and what they made is being verified. It can be resumed to do that later."),
      no: _("Let it end"),
      choices: [{ value: "now", label: _("Stop now") }],
    };
  }
  if (course.status === "preparing") {
    return {
      title: _("Stop this run?"),
      text: _("It has not begun to train, so nothing is lost. It can be resumed."),
      no: _("Let it begin"),
      choices: [{ value: "now", label: _("Stop now") }],
    };
  }
  if (course.status === "stopping") {
    return {
      title: _("Stop without waiting for the epoch?"),
      text: `${_("It stops after epoch {n} by itself.", { n })} ${kept} ${_("End the process only where it heeds nothing else.")}`,
      no: _("Wait for the epoch"),
      choices: [
        { value: "kill", label: _("End the process"), tone: "quiet danger" },
        { value: "now", label: _("Stop now, lose epoch {n}", { n }) },
      ],
    };
  }
  return {
    title: _("Stop this run?"),
    text: `${_("Epoch {n} is {share} done.", { n, share: percent(Math.min(1, begun)) })} ${kept}`,
    no: _("Keep training"),
    choices: [
      { value: "now", label: _("Stop now, lose epoch {n}", { n }), tone: "quiet danger" },
      { value: "after-epoch", label: _("Stop after epoch {n}", { n }) },
    ],
  };
}

/** Ask the server; meanwhile, the button can't be pressed again. Answers whether it did what was asked. */
async function once(button, asked, changed) {
  button.setAttribute("aria-disabled", "true");
  try {
    await asked();
    await changed();
    return true;
  } catch (error) {
    failed(error);
    return false;
  } finally {
    button.removeAttribute("aria-disabled");
  }
}

// -- the queue ------------------------------------------------------------------------------------------------------

/** Bring the place in the queue up to date; hidden where the run does not wait. */
export async function queue(course, changed) {
  const box = $("#queue");
  if (course.status !== "queued") {
    box.hidden = true;
    return;
  }
  let told;
  try {
    told = (await get("/api/queue")).queue;
  } catch (error) {
    return; // the connection says so
  }
  const mine = told.find((place) => place.run_id === course.id);
  if (course.status !== "queued" || !mine || mine.position == null) return;
  const others = told.filter((place) => place.device === mine.device);
  const waiting = others.filter((place) => place.position != null);
  const running = others.find((place) => place.position == null);
  const key = JSON.stringify([mine.position, waiting.length, running?.run_id]);
  box.hidden = false;
  if (box.dataset.drawn === key) return;
  const focused = document.activeElement?.dataset?.move;
  box.dataset.drawn = key;
  put(box, standing(mine, waiting, running), moves(course, mine, waiting, changed));
  if (focused) ($(`[data-move="${focused}"]`, box) ?? $("[data-move]", box))?.focus();
}

function standing(mine, waiting, running) {
  const place = { n: number(mine.position + 1), all: number(waiting.length), device: deviceName(mine.device) };
  return h(
    "div",
    {},
    h(
      "p",
      {},
      h(
        "b",
        {},
        mine.position ? _("Place {n} of {all} in the queue for {device}", place) : _("Next on {device}", place),
      ),
    ),
    h(
      "p",
      { class: "muted" },
      running
        ? [
            _("Now it trains"),
            " ",
            h("a", { href: `/runs/${encodeURIComponent(running.run_id)}` }, running.run_id),
            ".",
          ]
        : _("It begins in a moment."),
    ),
  );
}

function moves(course, mine, waiting, changed) {
  const address = `/api/queue/${encodeURIComponent(course.id)}`;
  const again = async () => {
    await changed();
    await queue(course, changed);
  };
  const button = (name, drawing, text, asked, off) => {
    const made = h("button", { class: "btn small", type: "button", "data-move": name }, icon(drawing), text);
    if (off) made.setAttribute("aria-disabled", "true");
    made.addEventListener("click", () => once(made, asked, again));
    return made;
  };
  const to = (position) => () => ask("PATCH", address, { position });
  return h(
    "div",
    { class: "row" },
    mine.position > 0 && button("up", "au", _("Move up"), to(mine.position - 1)),
    mine.position < waiting.length - 1 && button("down", "ad", _("Move down"), to(mine.position + 1)),
    button("out", "x", _("Take out of the queue"), () => ask("DELETE", address)),
  );
}

// -- what went wrong ------------------------------------------------------------------------------------------------

/** Say at the top why a run does not go on, with the way out; nothing where it does. run: its document. */
export function cause(course, run) {
  const box = $("#cause");
  const told = causeOf(course, run);
  box.hidden = !told;
  redraw(box, told, () => told && notice(course, told));
}

function causeOf(course, run) {
  const kept = inVain(course)
    ? _n(
        course.done,
        "Resume goes on after {n} whole epoch with the same settings, and would fail again.",
        "Resume goes on after {n} whole epochs with the same settings, and would fail again.",
      )
    : course.done
      ? _n(
          course.done,
          "Resume goes on after {n} whole epoch, with the same result as without the break.",
          "Resume goes on after {n} whole epochs, with the same result as without the break.",
        )
      : _("Resume begins with the first epoch.");
  const resumed = course.outside ? "" : kept;
  const told = course.cause?.problem || run.problem;
  const lang = course.cause?.problem ? course.cause.language : run.language; // of its own words
  switch (course.status) {
    case "failed":
      return {
        tone: "bad",
        title: told || _("It failed."),
        lang: told ? lang : null,
        fix: course.cause?.fix,
        then: resumed,
        log: true,
      };
    case "interrupted":
      return {
        tone: "warn",
        title: brokenOff(told) || _("It was broken off: its process is gone."),
        then: resumed,
        log: true,
      };
    case "stopped":
      return { tone: "", title: stopped(course), then: resumed };
    case "damaged":
      return {
        tone: "bad",
        title: told || _("It can’t be read."),
        lang: told ? lang : null,
        then: _("Restore it from a backup."),
      };
    default:
      return course.outside && ["preparing", "training"].includes(course.status)
        ? {
            tone: "",
            title: _("Another program trains this run and only reports here."),
            then: _("It is stopped where it is trained."),
          }
        : null;
  }
}

const stopped = (course) =>
  _n(course.total, "Stopped after {done} of {n} epoch.", "Stopped after {done} of {n} epochs.", {
    done: number(course.done),
  });

/** lang: of title and fix, where it is not the page's. */
function notice(course, { tone, title, lang, fix, then, log }) {
  const drawing = { bad: "err", warn: "warn" }[tone] ?? "info";
  const button = () =>
    h(
      "button",
      { class: "btn small", type: "button", onclick: () => showLog(course) },
      icon("file"),
      _("Show the log"),
    );
  return [
    icon(drawing, tone),
    h(
      "div",
      {},
      h("p", {}, h("b", { lang }, title)),
      h("p", { class: "muted" }, fix && h("span", { lang }, fix), fix && " ", then),
    ),
    log && !course.outside && button(),
  ];
}

/** What the run's process said last, in a dialog. */
async function showLog(course) {
  const text = h("pre", { class: "said", tabindex: "0", role: "region", "aria-labelledby": "log-title" });
  const dialog = h(
    "dialog",
    { class: "log-dlg", "aria-labelledby": "log-title" },
    h(
      "div",
      { class: "dlg-head" },
      h("h2", { id: "log-title", tabindex: "-1", autofocus: true }, _("What the run said")),
      h("p", { class: "muted" }, _("The end of the log of its process.")),
    ),
    h("div", { class: "dlg-body" }, text),
    h("form", { class: "dlg-foot", method: "dialog" }, h("button", { class: "btn" }, _("Close"))),
  );
  const before = document.activeElement;
  dialog.addEventListener("close", () => {
    dialog.remove();
    before?.focus();
  });
  document.body.append(dialog);
  dialog.showModal();
  try {
    const answer = await reached(`/api/runs/${encodeURIComponent(course.id)}/log`);
    text.textContent = lines(await answer.text()) || NONE;
    text.scrollTop = text.scrollHeight;
  } catch (error) {
    text.replaceWith(failure(error));
  }
}

/** A line that was overwritten on the terminal is told as it stood last. */
const lines = (text) =>
  text
    .replace(/\u001b\[[0-9;?]*[A-Za-z]/g, "")
    .split("\n")
    .map((line) => line.replace(/\r$/, "").split("\r").at(-1).trimEnd())
    .join("\n")
    .trim();
